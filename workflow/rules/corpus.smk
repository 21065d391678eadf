# From sequences to tokens.


rule synthesize:
    output:
        sequences="results/corpora/{corpus}/synthetic/sequences.fasta.gz",
        structures="results/corpora/{corpus}/synthetic/structures.parquet",
        truth="results/corpora/{corpus}/synthetic/truth.npz",
    log:
        "logs/corpora/{corpus}/synthesize.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=2000,
        runtime="10m",
    params:
        families=CONFIG.corpus.synthetic.families,
        unseen_families=CONFIG.corpus.synthetic.unseen_families,
        sequences=CONFIG.corpus.synthetic.sequences,
        seed=CONFIG.seed,
    message:
        "Drawing synthetic protein families"
    shell:
        "esm1b synthesize --output $(dirname {output.truth}) --families {params.families} "
        "--unseen-families {params.unseen_families} --sequences {params.sequences} "
        "--seed {params.seed} > {log} 2>&1"


rule shard:
    input:
        sequences=corpus_sequences,
        validation_ids=CONFIG.corpus.validation_ids or [],
    output:
        manifest="results/corpora/{corpus}/corpus/manifest.json",
        train=directory("results/corpora/{corpus}/corpus/train"),
        validation=directory("results/corpora/{corpus}/corpus/validation"),
    log:
        "logs/corpora/{corpus}/shard.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=4000,
        runtime="1d",
    params:
        shards=CONFIG.corpus.shards,
        split=split_options,
    message:
        "Cleaning and sharding the sequences"
    shell:
        "esm1b shard {input.sequences:q} --output $(dirname {output.manifest}) "
        "--shards {params.shards} {params.split} > {log} 2>&1"


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
