# From a model and its results to a model to publish.


rule release:
    input:
        model="results/{run}/model/model.safetensors",
        evaluations=evaluations,
    output:
        **model_files("release"),
    log:
        "logs/{run}/release.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=16000,
        runtime="30m",
    params:
        evaluations=evaluation_options,
    message:
        "Assembling the model to publish"
    shell:
        "esm1b export $(dirname {input.model}) --format hf {params.evaluations} "
        "--output $(dirname {output.config}) > {log} 2>&1"
