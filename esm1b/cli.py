"""The commands: one thin function per stage. Heavy imports wait until a command needs them."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from esm1b.errors import Stopped, UserError

__all__ = ["app", "main"]

STOPPED = 75

app = typer.Typer(
    help="ESM-1b, from UniRef50 to a trained, evaluated model. Every stage of the workflow is a "
    "command of its own.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
evaluate = typer.Typer(
    help="Measure a model: perplexity, contacts, secondary structure.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(evaluate, name="evaluate")

ModelDirectory = Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="model directory")]
OutputDirectory = Annotated[
    Path, typer.Option("--output", metavar="DIR", help="directory to write, new or replaced whole")
]
Untrained = Annotated[
    int, typer.Option(min=1, help="untrained networks of the same shape to measure beside it")
]


def main() -> None:
    """Run the command line; see `esm1b --help`."""
    is_first = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "")) in ("", "0")
    logging.basicConfig(
        level=logging.INFO if is_first else logging.WARNING,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    try:
        app()
    except UserError as error:
        if is_first:  # or every process of a run says the same
            print(f"esm1b: error: {error}", file=sys.stderr)
        sys.exit(2)
    except (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        print(f"esm1b: error: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stopped:
        if is_first:
            print(f"esm1b: stopped: {stopped}; the same command goes on", file=sys.stderr)
        sys.exit(STOPPED)


@app.command()
def synthesize(
    output: OutputDirectory,
    families: Annotated[int, typer.Option(min=4, help="families in the corpus")] = 16,
    unseen_families: Annotated[
        int, typer.Option(min=2, help="families that are not in the corpus")
    ] = 6,
    sequences: Annotated[int, typer.Option(min=10, help="sequences of each family")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="of everything that is drawn")] = 1,
) -> None:
    """Draw protein families whose contacts and best possible perplexity are known exactly.

    Example: esm1b synthesize --output synthetic --families 16 --sequences 2000 --seed 1
    """
    from esm1b.corpus.synthetic import SyntheticSettings
    from esm1b.corpus.synthetic import synthesize as run

    run(
        output,
        SyntheticSettings(
            families=families, unseen_families=unseen_families, sequences=sequences, seed=seed
        ),
    )


@app.command()
def shard(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="FASTA, plain or .gz; '-' is standard input"),
    ],
    output: OutputDirectory,
    shards: Annotated[int, typer.Option(min=1, help="Parquet files of each split")] = 16,
    validation_fraction: Annotated[
        float, typer.Option(help="share held out, by a keyed hash of the sequence")
    ] = 0.005,
    validation_ids: Annotated[
        Path | None, typer.Option(help="file of ids to hold out instead")
    ] = None,
) -> None:
    """Clean sequences, hold some out, and write Parquet shards with a manifest.

    Example: esm1b shard uniref50.fasta.gz --output corpus --shards 64
    """
    from esm1b.corpus.shards import shard as run

    run(
        inputs,
        output,
        shards=shards,
        validation_fraction=validation_fraction,
        validation_ids=validation_ids,
    )


@app.command()
def tokenize(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS_DIR", help="what shard wrote")],
    output: OutputDirectory,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 1,
) -> None:
    """Turn the shards of a corpus into memory-mapped token ids.

    Example: esm1b tokenize corpus --output tokens --workers 8
    """
    from esm1b.corpus.tokens import tokenize as run

    run(corpus, output, workers=workers)


@app.command()
def pretrain(
    run_config: Annotated[
        Path, typer.Argument(metavar="RUN_CONFIG", help="configuration, YAML or JSON")
    ],
    tokens: Annotated[Path, typer.Option(metavar="DIR", help="what tokenize wrote")],
    checkpoints: Annotated[
        Path, typer.Option(metavar="DIR", help="checkpoints and metrics; a rerun goes on from it")
    ],
    output: Annotated[
        Path, typer.Option(metavar="MODEL_DIR", help="model directory to write at the end")
    ],
    micro_batch_tokens: Annotated[
        int, typer.Option(min=1, help="tokens that a process takes at once")
    ] = 4096,
    zero_stage: Annotated[
        int,
        typer.Option(
            min=1, max=2, help="DeepSpeed divides optimiser state (1), and gradients too (2)"
        ),
    ] = 1,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each process")] = 1,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto is cuda where there is any")
    ] = "auto",
) -> None:
    """Train the encoder with masked-language modelling, under torchrun, srun or alone.

    Started again, it goes on from the newest checkpoint. SIGTERM, SIGINT or SIGUSR1 saves and
    exits with status 75.

    Example: torchrun --standalone --nproc-per-node=2 --no-python esm1b pretrain config.yaml
    --tokens tokens --checkpoints checkpoints/run --output model
    """
    from esm1b.config import load_config
    from esm1b.pretraining.engine import Hardware
    from esm1b.pretraining.loop import pretrain as run

    hardware = Hardware(
        micro_batch_tokens=micro_batch_tokens,
        zero_stage=2 if zero_stage == 2 else 1,
        threads=threads,
        device=device,
    )
    run(load_config(run_config), tokens, checkpoints, output, hardware)


@evaluate.command()
def perplexity(
    model: ModelDirectory,
    data: Annotated[Path, typer.Argument(metavar="TOKENS_DIR", help="what tokenize wrote")],
    output: OutputDirectory,
    sequences: Annotated[int, typer.Option(min=1, help="held-out sequences to score")] = 2000,
    draws: Annotated[int, typer.Option(min=1, help="fixed draws of the masks")] = 3,
    untrained: Untrained = 3,
    truth: Annotated[
        Path | None,
        typer.Option(help="truth.npz of synthetic families: adds the exact optimum"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of the bootstrap")] = 0,
) -> None:
    """Exponentiated cross-entropy on the held-out sequences, with fixed masks.

    Example: esm1b evaluate perplexity model tokens --output evaluation/perplexity
    """
    from esm1b.evaluation.perplexity import evaluate_perplexity

    evaluate_perplexity(
        model,
        data,
        output,
        sequences=sequences,
        draws=draws,
        untrained=untrained,
        truth=truth,
        seed=seed,
    )


@evaluate.command()
def contacts(
    model: ModelDirectory,
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="folder of PDB / mmCIF files, or a structure table"),
    ],
    output: OutputDirectory,
    regularisation: Annotated[
        str, typer.Option(help="C of the L1 penalty, or cross-validate")
    ] = "0.15",
    fit_proteins: Annotated[
        int, typer.Option(min=1, help="proteins of a folder that fit the regression")
    ] = 20,
    glycine: Annotated[
        Literal["impute", "ca"], typer.Option(help="what stands for a glycine's missing Cb")
    ] = "impute",
    untrained: Untrained = 3,
    seed: Annotated[int, typer.Option(min=0, help="of the draws and the bootstrap")] = 0,
) -> None:
    """Precision of contacts that a sparse regression reads from the attention maps.

    Example: esm1b evaluate contacts model structures/ --output evaluation/contacts
    """
    from esm1b.evaluation.contacts import evaluate_contacts

    evaluate_contacts(
        model,
        data,
        output,
        regularisation=_regularisation(regularisation),
        fit_proteins=fit_proteins,
        glycine=glycine,
        untrained=untrained,
        seed=seed,
    )


@evaluate.command("secondary-structure")
def secondary_structure(
    model: ModelDirectory,
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="table with sequence and ss3, CSV or Parquet")
    ],
    output: OutputDirectory,
    untrained: Untrained = 3,
    maximum_residues: Annotated[
        int | None, typer.Option(min=1, help="residues that fit the probes at most  [default: all]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of the fits and the bootstrap")] = 0,
) -> None:
    """Three-state accuracy of a linear probe on the frozen representations.

    Example: esm1b evaluate secondary-structure model flip_ss3.csv.gz --output evaluation/ss3
    """
    from esm1b.evaluation.secondary_structure import evaluate_secondary_structure

    evaluate_secondary_structure(
        model, data, output, untrained=untrained, maximum_residues=maximum_residues, seed=seed
    )


@app.command()
def report(
    model: ModelDirectory,
    corpus: Annotated[Path, typer.Option(metavar="DIR", help="what shard wrote")],
    training: Annotated[Path, typer.Option(metavar="FILE", help="metrics.jsonl of the run")],
    evaluations: Annotated[
        list[Path], typer.Option("--evaluation", metavar="DIR", help="what evaluate wrote; repeat")
    ],
    output: OutputDirectory,
) -> None:
    """Make the page: corpus, training curves, evaluations beside published numbers.

    Example: esm1b report model --corpus corpus --training checkpoints/run/metrics.jsonl
    --evaluation evaluation/contacts --output report
    """
    from esm1b.report.page import write_report

    write_report(model, corpus=corpus, training=training, evaluations=evaluations, output=output)


def _regularisation(text: str) -> float | Literal["cross-validate"]:
    if text == "cross-validate":
        return "cross-validate"
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(
            f"--regularisation: {text!r}; expected a positive number or 'cross-validate'"
        )
    return value
