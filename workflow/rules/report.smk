# From numbers to a page, and to a model to publish.


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
        "Putting weights, contact head and model card together"
    shell:
        "esm1b export $(dirname {input.model}) --format hf {params.evaluations} "
        "--output $(dirname {output.config}) > {log} 2>&1"


rule audit:
    input:
        model="results/{run}/model/model.safetensors",
        tokens=f"results/corpora/{CONFIG.corpus.name}/tokens/manifest.json",
        corpus=f"results/corpora/{CONFIG.corpus.name}/corpus/manifest.json",
    output:
        "results/{run}/audit/audit.json",
    log:
        "logs/{run}/audit.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=4000,
        runtime="30m",
    params:
        checkpoints="checkpoints/{run}",
    message:
        "Counting how often each sequence was seen"
    shell:
        "esm1b audit {params.checkpoints} --tokens $(dirname {input.tokens}) "
        "--corpus $(dirname {input.corpus}) --output $(dirname {output}) > {log} 2>&1"


rule report:
    input:
        model="results/{run}/model/model.safetensors",
        corpus=f"results/corpora/{CONFIG.corpus.name}/corpus/manifest.json",
        audit="results/{run}/audit/audit.json",
        evaluations=evaluations,
    output:
        page=report(
            "results/{run}/report/index.html",
            caption="../report/page.rst",
            category="Summary",
            labels={"shown": "everything on one page"},
        ),
        summary="results/{run}/report/summary.txt",
        results="results/{run}/report/results.json",
        figures=figures(),
    log:
        "logs/{run}/report.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=2000,
        runtime="10m",
    params:
        training="checkpoints/{run}/metrics.jsonl",
        evaluations=evaluation_options,
    message:
        "Making the report"
    shell:
        "esm1b report $(dirname {input.model}) --corpus $(dirname {input.corpus}) "
        "--training {params.training} --audit {input.audit} {params.evaluations} "
        "--output $(dirname {output.page}) > {log} 2>&1"
