# From a model to numbers.


rule evaluate_perplexity:
    input:
        model="results/{run}/model/model.safetensors",
        tokens=f"{CORPUS}/tokens/manifest.json",
        truth=truth,
    output:
        metrics="results/{run}/evaluation/perplexity/metrics.json",
        table="results/{run}/evaluation/perplexity/sequences.parquet",
    log:
        "logs/{run}/evaluate_perplexity.log",
    conda:
        "../../envs/environment.yaml"
    threads: 4
    resources:
        mem_mb=16000,
        runtime="4h",
        options="",
    params:
        options=options(
            **CONFIG.evaluation.perplexity.model_dump(),
            untrained=CONFIG.evaluation.untrained,
        ),
        truth=lambda wildcards, input: options(truth=str(input.truth)),
    message:
        "Measuring perplexity on the held-out sequences"
    shell:
        "esm1b evaluate perplexity $(dirname {input.model}) $(dirname {input.tokens}) "
        "--output $(dirname {output.metrics}) {params.options} {params.truth} "
        "{resources.options} > {log} 2>&1"


rule evaluate_contacts:
    input:
        model="results/{run}/model/model.safetensors",
        structures=files_in(structures()),
    output:
        metrics="results/{run}/evaluation/contacts/metrics.json",
        table="results/{run}/evaluation/contacts/proteins.parquet",
        maps="results/{run}/evaluation/contacts/contact_maps.parquet",
        regression="results/{run}/evaluation/contacts/contact_regression.json",
    log:
        "logs/{run}/evaluate_contacts.log",
    conda:
        "../../envs/environment.yaml"
    threads: 4
    resources:
        mem_mb=32000,
        runtime="4h",
        options="",
    params:
        options=options(
            **CONFIG.evaluation.contacts.model_dump(exclude={"structures"}),
            untrained=CONFIG.evaluation.untrained,
        ),
        data=lambda wildcards: in_place(structures()),
        content=lambda wildcards: content(structures()),
    message:
        "Measuring contacts"
    shell:
        "esm1b evaluate contacts $(dirname {input.model}) {params.data:q} "
        "--output $(dirname {output.metrics}) {params.options} {resources.options} "
        "> {log} 2>&1"


rule evaluate_secondary_structure:
    input:
        model="results/{run}/model/model.safetensors",
        table=files_in(secondary_structure_table()),
    output:
        metrics="results/{run}/evaluation/secondary_structure/metrics.json",
        table="results/{run}/evaluation/secondary_structure/proteins.parquet",
    log:
        "logs/{run}/evaluate_secondary_structure.log",
    conda:
        "../../envs/environment.yaml"
    threads: 4
    resources:
        mem_mb=32000,
        runtime="4h",
        options="",
    params:
        options=options(
            **CONFIG.evaluation.secondary_structure.model_dump(exclude={"table"}),
            untrained=CONFIG.evaluation.untrained,
        ),
        data=lambda wildcards: in_place(secondary_structure_table()),
        content=lambda wildcards: content(secondary_structure_table()),
    message:
        "Measuring secondary structure"
    shell:
        "esm1b evaluate secondary-structure $(dirname {input.model}) {params.data:q} "
        "--output $(dirname {output.metrics}) {params.options} {resources.options} "
        "> {log} 2>&1"


rule evaluate_variants:
    input:
        model="results/{run}/model/model.safetensors",
        assays=files_in(*assays().values()),
    output:
        metrics="results/{run}/evaluation/variants/metrics.json",
        table="results/{run}/evaluation/variants/variants.parquet",
    log:
        "logs/{run}/evaluate_variants.log",
    conda:
        "../../envs/environment.yaml"
    threads: 4
    resources:
        mem_mb=32000,
        runtime="12h",
        options="",
    params:
        options=lambda wildcards: assay_options(),
        data=lambda wildcards: assay_arguments(),
        content=lambda wildcards: [content(path) for path in assays().values()],
    message:
        "Measuring scores against effects of mutations"
    shell:
        "esm1b evaluate variants $(dirname {input.model}) {params.data} "
        "--output $(dirname {output.metrics}) {params.options} {resources.options} "
        "> {log} 2>&1"
