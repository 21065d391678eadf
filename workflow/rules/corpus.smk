# From sequences to tokens.


rule synthesize:
    output:
        sequences="results/corpora/{corpus}/synthetic/sequences.fasta.gz",
        structures="results/corpora/{corpus}/synthetic/structures.parquet",
        truth="results/corpora/{corpus}/synthetic/truth.npz",
        assays="results/corpora/{corpus}/synthetic/assays/DMS_substitutions.csv",
    log:
        "logs/corpora/{corpus}/synthesize.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=2000,
        runtime="10m",
    params:
        options=options(**CONFIG.corpus.synthetic.model_dump(), seed=CONFIG.seed),
    message:
        "Drawing synthetic protein families"
    shell:
        "esm1b synthesize --output $(dirname {output.truth}) {params.options} > {log} 2>&1"


# The release is no output: Snakemake would delete tens of gigabytes when the job runs again. The
# lock beside it names it, with its digests. A local rule: compute nodes often have no way out.
rule download:
    output:
        lock=f"{DOWNLOAD}/download.json",
    log:
        f"logs/uniref/{Path(DOWNLOAD).name}.log",
    retries: 3
    localrule: True
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime="3d",
        # no parameter: from another mirror the file is the same
        mirrors=options(mirror=CONFIG.corpus.mirrors),
    params:
        release=CONFIG.corpus.release,
        limit=options(limit=CONFIG.corpus.limit),
    message:
        "Downloading UniRef50 {params.release}"
    shell:
        "esm1b download --release {params.release} --output $(dirname {output.lock}) "
        "{params.limit} {resources.mirrors} > {log} 2>&1"


rule download_validation_list:
    output:
        ids=f"{LIST_DOWNLOAD}/{VALIDATION_LIST.name}",
        lock=f"{LIST_DOWNLOAD}/download.json",
    log:
        "logs/uniref/esm1b_validation_list.log",
    retries: 3
    localrule: True
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime="1h",
    message:
        "Downloading the list of the clusters that ESM-1b held out"
    shell:
        "esm1b download --validation-list --output $(dirname {output.lock}) > {log} 2>&1"


rule shard:
    input:
        sequences=tracked(corpus_sequences()),
        lock=release_lock,
        validation_ids=tracked(validation_ids()),
        exclude=tracked(excluded_ids()),
    output:
        manifest="results/corpora/{corpus}/corpus/manifest.json",
        train=directory("results/corpora/{corpus}/corpus/train"),
        validation=directory("results/corpora/{corpus}/corpus/validation"),
    log:
        "logs/corpora/{corpus}/shard.log",
    conda:
        "../../envs/environment.yaml"
    threads: 8
    resources:
        mem_mb=4000,
        runtime="1d",
    params:
        **untracked(*corpus_sequences(), *validation_ids(), *excluded_ids()),
        files=files_to_shard,
        options=shard_options,
    message:
        "Cleaning and sharding the sequences"
    shell:
        "esm1b shard {params.files:q} --output $(dirname {output.manifest}) {params.options} "
        "--workers {threads} > {log} 2>&1"


rule tokenize:
    input:
        manifest="results/corpora/{corpus}/corpus/manifest.json",
        train="results/corpora/{corpus}/corpus/train",
        validation="results/corpora/{corpus}/corpus/validation",
    output:
        manifest="results/corpora/{corpus}/tokens/manifest.json",
        train=directory("results/corpora/{corpus}/tokens/train"),
        validation=directory("results/corpora/{corpus}/tokens/validation"),
    log:
        "logs/corpora/{corpus}/tokenize.log",
    conda:
        "../../envs/environment.yaml"
    threads: 8
    resources:
        mem_mb=8000,
        runtime="2h",
    message:
        "Turning residues into tokens"
    shell:
        "esm1b tokenize $(dirname {input.manifest}) --output $(dirname {output.manifest}) "
        "--workers {threads} > {log} 2>&1"
