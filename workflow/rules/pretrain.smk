# From tokens to a model.


rule run_config:
    output:
        "results/{run}/run_config.json",
    log:
        "logs/{run}/run_config.log",
    localrule: True
    conda:
        "../../envs/environment.yaml"
    params:
        content=run_config,
    message:
        "Writing down what decides the training"
    shell:
        "printf '%s\\n' {params.content:q} > {output} 2> {log}"


# Checkpoints are no output: Snakemake deletes the outputs of a job that fails.
rule pretrain:
    input:
        run_config="results/{run}/run_config.json",
        tokens=f"results/corpora/{CONFIG.corpus.name}/tokens/manifest.json",
    output:
        **model_files("model"),
    log:
        "logs/{run}/pretrain.log",
    conda:
        "../../envs/environment.yaml"
    threads: 8
    resources:
        mem_mb=64000,
        runtime="12h",
        micro_batch_tokens=8192,
        zero_stage=1,
        threads_per_process=1,
        device="auto",
        attention="auto",
        options="",
    params:
        launch=launcher,
        checkpoints="checkpoints/{run}",
    message:
        "Pretraining; what it does is in {log}"
    shell:
        "{params.launch} esm1b pretrain {input.run_config} --tokens $(dirname {input.tokens}) "
        "--checkpoints {params.checkpoints} --output $(dirname {output.config}) "
        "--micro-batch-tokens {resources.micro_batch_tokens} --zero-stage {resources.zero_stage} "
        "--threads {resources.threads_per_process} --device {resources.device} "
        "--attention {resources.attention} {resources.options} > {log} 2>&1"
