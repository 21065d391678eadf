# From numbers to a page.


rule report:
    input:
        model="results/{run}/model/model.safetensors",
        corpus=f"{CORPUS}/corpus/manifest.json",
        metrics="results/{run}/training/metrics.jsonl",
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
        evaluations=evaluation_options,
    message:
        "Writing the report"
    shell:
        "esm1b report $(dirname {input.model}) --corpus $(dirname {input.corpus}) "
        "--training {input.metrics} --audit {input.audit} {params.evaluations} "
        "--output $(dirname {output.page}) > {log} 2>&1"
