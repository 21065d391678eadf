"""Commands that measure a model and show the results."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from esm1b.commands.options import ModelDirectory, OutputDirectory, Untrained
from esm1b.errors import UserError


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
    from esm1b.evaluation.contacts.contacts import evaluate_contacts

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
    from esm1b.evaluation.secondary_structure.secondary_structure import (
        evaluate_secondary_structure,
    )

    evaluate_secondary_structure(
        model, data, output, untrained=untrained, maximum_residues=maximum_residues, seed=seed
    )


def report(
    model: ModelDirectory,
    corpus: Annotated[Path, typer.Option(metavar="DIR", help="what shard wrote")],
    training: Annotated[Path, typer.Option(metavar="FILE", help="metrics.jsonl of the run")],
    evaluations: Annotated[
        list[Path], typer.Option("--evaluation", metavar="DIR", help="what evaluate wrote; repeat")
    ],
    output: OutputDirectory,
    audit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="audit.json, what audit wrote")
    ] = None,
) -> None:
    """Make the page: corpus, training curves, evaluations beside published numbers.

    Example: esm1b report model --corpus corpus --training checkpoints/run/metrics.jsonl
    --evaluation evaluation/contacts --output report
    """
    from esm1b.report.page import write_report

    write_report(
        model,
        corpus=corpus,
        training=training,
        evaluations=evaluations,
        output=output,
        audit=audit,
    )


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
