import json
import os
import re
import shlex
import sys
from pathlib import Path

from esm1b.cluster.jobs import find_jobs
from esm1b.config import parse_config
from esm1b.config_file import read_config_file
from esm1b.download.release import VALIDATION_LIST
from esm1b.errors import UserError
from esm1b.evaluation.inputs import content_digest, files_of

try:
    for path in workflow.configfiles:  # Snakemake has kept the last of keys given twice
        read_config_file(Path(path))
    CONFIG = parse_config(config, origin="configuration")
except UserError as error:
    print(f"esm1b: error: {error}", file=sys.stderr)
    sys.exit(2)
config.update(CONFIG.model_dump(mode="json"))

EVALUATIONS = ["perplexity"]
if CONFIG.corpus.is_synthetic or CONFIG.evaluation.contacts.structures:
    EVALUATIONS.append("contacts")
if CONFIG.corpus.is_synthetic or CONFIG.evaluation.secondary_structure.table:
    EVALUATIONS.append("secondary_structure")
if CONFIG.corpus.is_synthetic or CONFIG.evaluation.variants.data:
    EVALUATIONS.append("variants")

# The beginning of a release is kept apart from the whole; without a release nothing asks for it.
PART = f"-first-{CONFIG.corpus.limit}" if CONFIG.corpus.limit else ""
DOWNLOAD = f"resources/uniref/{CONFIG.corpus.release}{PART}"
LIST_DOWNLOAD = "resources/uniref/esm1b_validation_list"

CORPUS = f"results/corpora/{CONFIG.corpus.name}"
SYNTHETIC_STRUCTURES = f"{CORPUS}/synthetic/structures.parquet"
SYNTHETIC_ASSAYS = f"{CORPUS}/synthetic/assays/DMS_substitutions.csv"

# What `esm1b pretrain --records` writes, by its purpose.
TRAINING_RECORDS = {
    "metrics": "metrics.jsonl",
    "attempts": "attempts.jsonl",
    "run": "run.json",
    "state": "state.json",
}

# Puts a SLURM job back into the queue.
LAUNCH_SCRIPT = str(Path(workflow.basedir) / "launch.sh")

# The job in which Snakemake itself runs; the slurm executor forgets it.
OWN_JOB = os.environ.get("SLURM_JOB_ID")


wildcard_constraints:
    corpus=CONFIG.corpus.name,
    run=CONFIG.run,


def options(**values):
    """Command-line options of the values that are set; True is an option without a value."""
    words = []
    for name, value in values.items():
        option = f"--{name.replace('_', '-')}"
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if one is True:
                words.append(option)
            elif one is not False and one not in (None, ""):  # 0 is a value
                words.append(f"{option} {shlex.quote(str(one))}")
    return " ".join(words)


# What Snakemake takes for a wildcard, or for one of its path variables.
PLACEHOLDER = re.compile(r"\{[^{}]*\}|<[a-z][a-z0-9_]*>")


def tracked(paths):
    """The user's paths that can be inputs: those that Snakemake takes as they are."""
    return [path for path in paths if not PLACEHOLDER.search(path)]


def untracked(*paths):
    """A parameter of the size and time of the user's other files, so that they are tracked too."""
    others = [Path(path) for path in paths if PLACEHOLDER.search(path)]
    stats = [
        (str(file), file.stat().st_size, file.stat().st_mtime)
        for file in others
        if file.exists()
    ]
    return {"untracked": stats} if stats else {}


def in_place(path):
    """The user's file or folder for a command, which reads it where it is."""
    return arguments([path], tracked([path]))


def arguments(paths, inputs):
    """The user's paths for a command, as Snakemake has them as inputs; none begins with `-`."""
    found = dict(zip(tracked(paths), inputs, strict=True))
    named = [found.get(path, path) for path in paths]
    return [f"./{path}" if path.startswith("-") else path for path in named]


def launcher(wildcards, resources, threads):
    """Command that starts one training process per GPU; empty: just this process.

    The resource `launcher` is a text with the job's resources in braces, so that the number of
    nodes stands in one place. Earlier profiles have the command itself in `mpi`.
    """
    text = resources.get("launcher") or resources.get("mpi", "")
    values = {
        **dict(resources.items()),
        "threads": threads,
        "requeue": shlex.join(["sh", LAUNCH_SCRIPT, f"checkpoints/{wildcards.run}"]),
    }
    try:
        return text.format_map(values)
    except (KeyError, ValueError, IndexError) as error:
        known = ", ".join(sorted(name for name in values if name[0] != "_"))
        raise UserError(
            f"launcher of pretrain: {text!r}: {error}; expected in braces one of {known}"
        ) from error


def obstacle():
    """What keeps the workflow from starting, in one line; None if nothing does."""
    executor = workflow.executor_plugin.name
    if executor == "slurm" and "mpi" not in rules.pretrain.rule.resources.keys():
        return (
            "--executor slurm: pretrain has no resource mpi, so it would be killed before it saves; "
            "expected --workflow-profile slurm, slurm-1gpu, slurm-cpu or a copy of one, and no "
            "--set-resources, which replaces all of the profile's: see docs/cluster.md"
        )
    jobs = find_jobs(Path.cwd(), names={CONFIG.run, CONFIG.corpus.name}, own=OWN_JOB)
    told = "; ".join(f"{job}: {job.advice}" for job in jobs)
    return f"{told}, then run the same command" if jobs else None


def run_config(wildcards):
    """What decides the training, and nothing else: other changes do not retrain."""
    parts = CONFIG.model_dump(
        mode="json", include={"run", "seed", "model", "pretraining"}
    )
    return json.dumps(parts, indent=2)


def corpus_sequences():
    """The user's sequence files, or the synthetic ones; none for a release."""
    if CONFIG.corpus.is_synthetic:
        return [f"{CORPUS}/synthetic/sequences.fasta.gz"]
    return list(CONFIG.corpus.sequences)


def release_lock(wildcards):
    """The file that names the downloaded release; none without a release."""
    return rules.download.output.lock if CONFIG.corpus.release else []


def files_to_shard(wildcards, input):
    """The names of the files to shard; a release's is in its lock."""
    if not input.lock:
        return arguments(corpus_sequences(), input.sequences)
    lock = Path(input.lock)
    return str(lock.with_name(json.loads(lock.read_text())["file"]))


def validation_ids():
    """The list of ids to hold out: the user's, ESM-1b's, or none."""
    if CONFIG.corpus.has_published_list:
        return [f"{LIST_DOWNLOAD}/{VALIDATION_LIST.name}"]
    return [CONFIG.corpus.validation_ids] if CONFIG.corpus.validation_ids else []


def excluded_ids():
    """The list of ids to exclude, or none."""
    return [CONFIG.corpus.exclude] if CONFIG.corpus.exclude else []


def shard_options(wildcards, input):
    """The options of `esm1b shard` about the split, the source and the selection."""
    corpus = CONFIG.corpus
    ids = validation_ids()
    selection = {"shards", "sample", "minimum_length", "maximum_length", "strict"}
    return options(
        validation_ids=arguments(ids, input.validation_ids),
        validation_fraction=None if ids else corpus.validation_fraction,
        allow_partial_list=corpus.allow_partial_list,
        source=str(input.lock),
        exclude=arguments(excluded_ids(), input.exclude),
        **corpus.model_dump(include=selection),
    )


def truth(wildcards):
    """The exact references of a synthetic corpus; none for a real one."""
    return f"{CORPUS}/synthetic/truth.npz" if CONFIG.corpus.is_synthetic else []


def structures():
    """The user's structures for contacts, or the synthetic table."""
    return CONFIG.evaluation.contacts.structures or SYNTHETIC_STRUCTURES


def secondary_structure_table():
    """The user's table of secondary structures, or the synthetic one."""
    return CONFIG.evaluation.secondary_structure.table or SYNTHETIC_STRUCTURES


def assays():
    """The user's files for effects of mutations, by option of the command; or the synthetic ones."""
    variants = CONFIG.evaluation.variants
    paths = {
        "data": variants.data,
        "wild_type": variants.wild_type,
        "reference": variants.reference,
    }
    found = {name: path for name, path in paths.items() if path}
    return found if variants.data else {"reference": SYNTHETIC_ASSAYS}


def assay_arguments():
    """The data and the files that `esm1b evaluate variants` reads with it."""
    paths = {name: in_place(path)[0] for name, path in assays().items()}
    data = paths.pop("data", None) or str(Path(SYNTHETIC_ASSAYS).parent)
    return f"{shlex.quote(data)} {options(**paths)}"


def assay_options():
    """The options of `esm1b evaluate variants` that decide the result."""
    files = {"data", "wild_type", "reference"}
    settings = CONFIG.evaluation.variants.model_dump(exclude=files)
    if not CONFIG.evaluation.variants.data:
        settings["compare"] = ["site_independent"]  # the exact scores without couplings
    return options(**settings, untrained=CONFIG.evaluation.untrained)


def files_in(*paths):
    """The inputs that files or folders, at any depth, are for Snakemake."""
    return tracked(str(file) for path in paths for file in files_of(Path(path)))


def content(path):
    """A parameter: the digest of the user's data, whatever names and dates their files have."""
    is_made = path in (SYNTHETIC_STRUCTURES, SYNTHETIC_ASSAYS)
    return content_digest(Path(path)) if not is_made and Path(path).exists() else None


def evaluations(wildcards):
    """The results of the evaluations that the configuration has data for."""
    return [
        f"results/{wildcards.run}/evaluation/{name}/metrics.json"
        for name in EVALUATIONS
    ]


def evaluation_options(wildcards, input):
    """An option for each evaluation directory."""
    return options(evaluation=[Path(path).parent for path in input.evaluations])


def model_files(name):
    """The files of a model directory of the run, by their purpose."""
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


def report_file(name):
    """A file of the configured run's report."""
    return f"results/{CONFIG.run}/report/{name}"


def figures():
    """The figures of the report, each with its caption and its place in Snakemake's own report."""
    categories = {"corpus": "Data", "training": "Pretraining"}
    shown = []
    for name in ["corpus", "training", *EVALUATIONS]:
        figure = report(
            f"results/{{run}}/report/figures/{name}.svg",
            caption=f"../report/{name}.rst",
            category=categories.get(name, "Evaluation"),
            labels={"shown": name.replace("_", " ")},
        )
        shown.append(figure)
    return shown
