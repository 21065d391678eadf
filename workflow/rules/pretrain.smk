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
        "Configuring run {wildcards.run}"
    shell:
        "printf '%s\\n' {params.content:q} > {output} 2> {log}"


# Checkpoints are no output: Snakemake deletes the outputs of a job that fails.
rule pretrain:
    input:
        run_config="results/{run}/run_config.json",
        tokens=f"{CORPUS}/tokens/manifest.json",
    output:
        **model_files("model"),
        **{
            name: f"results/{{run}}/training/{file}"
            for name, file in TRAINING_RECORDS.items()
        },
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
        "Pretraining run {wildcards.run}"
    shell:
        "{params.launch} esm1b pretrain {input.run_config} --tokens $(dirname {input.tokens}) "
        "--checkpoints {params.checkpoints} --output $(dirname {output.config}) "
        "--records $(dirname {output.metrics}) "
        "--micro-batch-tokens {resources.micro_batch_tokens} --zero-stage {resources.zero_stage} "
        "--threads {resources.threads_per_process} --device {resources.device} "
        "--attention {resources.attention} {resources.options} > {log} 2>&1"


rule audit:
    input:
        records=[
            f"results/{{run}}/training/{name}" for name in TRAINING_RECORDS.values()
        ],
        tokens=f"{CORPUS}/tokens/manifest.json",
        corpus=f"{CORPUS}/corpus/manifest.json",
    output:
        "results/{run}/audit/audit.json",
    log:
        "logs/{run}/audit.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=4000,
        runtime="30m",
    message:
        "Auditing run {wildcards.run}"
    shell:
        "esm1b audit $(dirname {input.records[0]}) --tokens $(dirname {input.tokens}) "
        "--corpus $(dirname {input.corpus}) --output $(dirname {output}) > {log} 2>&1"
