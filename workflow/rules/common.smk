import json
import shlex
import sys
from pathlib import Path

from snakemake.utils import validate

from esm1b.config import parse_config
from esm1b.download.release import VALIDATION_LIST
from esm1b.errors import UserError

try:
    CONFIG = parse_config(config, origin="configuration")
except UserError as error:
    print(f"esm1b: error: {error}", file=sys.stderr)
    sys.exit(2)
config.update(CONFIG.model_dump(mode="json"))
validate(config, schema="../schemas/config.schema.yaml")

EVALUATIONS = ["perplexity"]
if CONFIG.corpus.is_synthetic or CONFIG.evaluation.contacts.structures:
    EVALUATIONS.append("contacts")
if CONFIG.corpus.is_synthetic or CONFIG.evaluation.secondary_structure.table:
    EVALUATIONS.append("secondary_structure")

# The beginning of a release is kept apart from the whole; without a release nothing asks for it.
DOWNLOAD = f"resources/uniref/{CONFIG.corpus.release}"
if CONFIG.corpus.limit:
    DOWNLOAD += f"-first-{CONFIG.corpus.limit}"
LIST_DOWNLOAD = "resources/uniref/esm1b_validation_list"


wildcard_constraints:
    corpus=CONFIG.corpus.name,
    run=CONFIG.run,


def launcher(wildcards, resources):
    """Command that starts one training process per GPU; empty: just this process."""
    return resources.get("mpi", "")


def run_config(wildcards):
    """What decides the training, and nothing else: other changes do not retrain."""
    parts = CONFIG.model_dump(
        mode="json", include={"run", "seed", "model", "pretraining"}
    )
    return json.dumps(parts, indent=2)


def corpus_sequences(wildcards):
    """The files to shard: the user's, or those that are drawn; none where a release is."""
    if CONFIG.corpus.is_synthetic:
        return "results/corpora/{corpus}/synthetic/sequences.fasta.gz"
    return list(CONFIG.corpus.sequences)


def release_lock(wildcards):
    """What says which file the configured release is; nothing without a release."""
    return rules.download.output.lock if CONFIG.corpus.release else []


def files_to_shard(wildcards, input):
    """The files to shard by their names, which a lock tells once it is there."""
    if not input.lock:
        return input.sequences
    lock = Path(input.lock)
    return str(lock.with_name(json.loads(lock.read_text())["file"]))


def mirror_options(wildcards):
    """The options that name the configured mirrors."""
    return " ".join(f"--mirror {shlex.quote(url)}" for url in CONFIG.corpus.mirrors)


def limit_option(wildcards):
    """The option that fetches only the beginning of a release."""
    return f"--limit {CONFIG.corpus.limit}" if CONFIG.corpus.limit else ""


def validation_ids(wildcards):
    """The list of ids to hold out: the user's, ESM-1b's, or none."""
    if CONFIG.corpus.has_published_list:
        return rules.download_validation_list.output.ids
    return CONFIG.corpus.validation_ids or []


def split_options(wildcards, input):
    """How sequences are held out."""
    if not input.validation_ids:
        return f"--validation-fraction {CONFIG.corpus.validation_fraction}"
    partial = " --allow-partial-list" if CONFIG.corpus.allow_partial_list else ""
    return f"--validation-ids {shlex.quote(str(input.validation_ids))}{partial}"


def cleaning_options(wildcards, input):
    """Where the sequences come from, and which of them are left out."""
    corpus = CONFIG.corpus
    values = {
        "--source": input.lock or None,
        "--sample": corpus.sample,
        "--exclude": input.exclude or None,
        "--minimum-length": corpus.minimum_length,
        "--maximum-length": corpus.maximum_length,
    }
    options = [
        f"{name} {shlex.quote(str(value))}"
        for name, value in values.items()
        if value is not None
    ]
    return " ".join([*options, "--strict"] if corpus.strict else options)


def synthetic_file(name):
    """A file of the synthetic families of the configured corpus."""
    return f"results/corpora/{CONFIG.corpus.name}/synthetic/{name}"


def truth(wildcards):
    """The exact references of a synthetic corpus, nothing for a real one."""
    return synthetic_file("truth.npz") if CONFIG.corpus.is_synthetic else []


def truth_option(wildcards, input):
    """The option that adds the exact references."""
    return f"--truth {input.truth}" if input.truth else ""


def structures(wildcards):
    """Structures for contacts: the user's, or the synthetic table."""
    return CONFIG.evaluation.contacts.structures or synthetic_file("structures.parquet")


def secondary_structure_table(wildcards):
    """Secondary structures: the user's, or the synthetic table."""
    return CONFIG.evaluation.secondary_structure.table or synthetic_file(
        "structures.parquet"
    )


def maximum_residues_option(wildcards):
    """The option that bounds the residues that fit the probes."""
    limit = CONFIG.evaluation.secondary_structure.maximum_residues
    return "" if limit is None else f"--maximum-residues {limit}"


def evaluations(wildcards):
    """The results of the evaluations that the configuration has data for."""
    return [
        f"results/{wildcards.run}/evaluation/{name}/metrics.json"
        for name in EVALUATIONS
    ]


def evaluation_options(wildcards, input):
    """An option for each evaluation directory."""
    return " ".join(f"--evaluation {Path(path).parent}" for path in input.evaluations)


def model_files(name):
    """The files of a model directory of the run, by what they are."""
    files = {
        "card": "README.md",
        "config": "config.json",
        "weights": "model.safetensors",
        "provenance": "esm1b.json",
        "vocabulary": "vocab.txt",
        "tokenizer": "tokenizer_config.json",
        "special_tokens": "special_tokens_map.json",
    }
    return {what: f"results/{{run}}/{name}/{file}" for what, file in files.items()}


def everything(wildcards):
    """Every output, so that any one that is missing is made again, with what depends on it."""
    made = [rules.shard, rules.tokenize, rules.run_config, rules.pretrain]
    made += [rules.release, rules.audit, rules.report]
    if CONFIG.corpus.is_synthetic:
        made.append(rules.synthesize)
    if CONFIG.corpus.release:
        made.append(rules.download)
    if CONFIG.corpus.has_published_list:
        made.append(rules.download_validation_list)
    made += [getattr(rules, f"evaluate_{name}") for name in EVALUATIONS]
    paths = [path for rule in made for path in rule.output]
    return expand(paths, corpus=CONFIG.corpus.name, run=CONFIG.run)


def release_directory():
    """The model directory to publish of the configured run."""
    return f"results/{CONFIG.run}/release"


def report_page():
    """The page of the configured run."""
    return f"results/{CONFIG.run}/report/index.html"


def report_summary():
    """The table of results of the configured run."""
    return f"results/{CONFIG.run}/report/summary.txt"


def figure(name):
    """A figure with its caption and its place in Snakemake's report."""
    categories = {"corpus": "Data", "training": "Pretraining"}
    flagged = report(
        f"results/{{run}}/report/figures/{name}.svg",
        caption=f"../report/{name}.rst",
        category=categories.get(name, "Evaluation"),
        labels={"shown": name.replace("_", " ")},
    )
    return flagged


def figures():
    """The figures of what was evaluated."""
    return [figure(name) for name in ["corpus", "training", *EVALUATIONS]]
