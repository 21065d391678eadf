"""Commands that measure a model and show the results."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from esm1b.commands import options
from esm1b.commands.command import runs
from esm1b.errors import UserError


@runs("esm1b.evaluation.perplexity:evaluate_perplexity")
def perplexity(
    model_directory: options.ModelDirectory,
    tokens: Annotated[Path, Argument(metavar="TOKENS_DIR|FASTA")],
    output: options.OutputDirectory,
    sequences: options.Count = 2000,
    draws: options.Count = 3,
    untrained: options.CountOrZero = 3,
    truth: options.OptionalFile = None,
    seed: options.Seed = 0,
    batch_tokens: options.BatchTokens = 8192,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
) -> None:
    """Measure exponentiated cross-entropy on held-out sequences, under fixed masks.

    Input:
        tokens: tokens directory, written by tokenize, for its held-out sequences; or FASTA, plain
            or .gz, without the baseline of residue frequencies
        truth: truth.npz of synthetic families, to add the exact optimum
    Measurement:
        sequences: `evaluation.perplexity.sequences`
        draws: `evaluation.perplexity.draws`
        untrained: `evaluation.untrained`
        seed: random seed of the untrained networks and the bootstrap

    Example:
        esm1b evaluate perplexity model tokens --output evaluation/perplexity
    """


def _regularisation(text: str) -> float | str:
    with suppress(ValueError):
        if text == "cross-validate" or 0 < float(text) < float("inf"):
            return text if text == "cross-validate" else float(text)
    raise UserError(f"--regularisation: {text!r}; expected a positive number or 'cross-validate'")


@runs("esm1b.evaluation.contacts.contacts:evaluate_contacts")
def contacts(
    model_directory: options.ModelDirectory,
    data: Annotated[Path, Argument(metavar="DATA")],
    output: options.OutputDirectory,
    regularisation: Annotated[
        str, Option(metavar="C|cross-validate", callback=_regularisation)
    ] = "0.15",
    fit_proteins: options.Count = 20,
    glycine: Literal["impute", "ca"] = "impute",
    untrained: options.CountOrZero = 3,
    jacobian: options.CountOrZero = 0,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
) -> None:
    """Measure the contact precision of an L1 logistic regression on attention maps.

    Input:
        data: folder of PDB / mmCIF files, or a table with the columns of structures.parquet, which
            synthesize writes (CSV, TSV, Parquet or Arrow, plain or .gz)
        glycine: `evaluation.contacts.glycine`
    Measurement:
        regularisation: `evaluation.contacts.regularisation`
        fit_proteins: `evaluation.contacts.fit_proteins`
        untrained: `evaluation.untrained`
        jacobian: `evaluation.contacts.jacobian`
        seed: random seed of the choice of proteins to fit on, the untrained networks and the
            bootstrap

    Example:
        esm1b evaluate contacts model structures/ --output evaluation/contacts
    """


@runs("esm1b.evaluation.secondary_structure.secondary_structure:evaluate_secondary_structure")
def secondary_structure(
    model_directory: options.ModelDirectory,
    data: Annotated[Path, Argument(metavar="DATA")],
    output: options.OutputDirectory,
    untrained: options.CountOrZero = 3,
    maximum_residues: options.OptionalCount = None,
    layer: Annotated[int, Option(metavar="N")] = -1,
    seed: options.Seed = 0,
    batch_tokens: options.BatchTokens = 8192,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
) -> None:
    """Measure the three-state accuracy of a linear probe on frozen representations.

    Input:
        data: table with the columns sequence and ss3 (letters H, E, C); id, split (train, valid,
            test), resolved and group are optional (CSV, TSV, Parquet or Arrow, plain or .gz)
    Measurement:
        untrained: `evaluation.untrained`
        maximum_residues: `evaluation.secondary_structure.maximum_residues`
        layer: `evaluation.secondary_structure.layer`
        seed: random seed of the choice of proteins to fit on, the untrained networks and the
            bootstrap

    Example:
        esm1b evaluate secondary-structure model flip_ss3.csv.gz --output evaluation/ss3
    """


@runs("esm1b.evaluation.variants.variants:evaluate_variants")
def variants(
    model_directory: options.ModelDirectory,
    data: Annotated[Path, Argument(metavar="DATA")],
    output: options.OutputDirectory,
    wild_type: options.OptionalFile = None,
    reference: options.OptionalFile = None,
    offset: Annotated[int, Option(metavar="N")] = 1,
    variant_column: Annotated[str | None, Option(metavar="COLUMN")] = None,
    score_column: Annotated[str | None, Option(metavar="COLUMN")] = None,
    compare: Annotated[list[str] | None, Option(metavar="COLUMN")] = None,
    convention: options.Convention = "masked-marginals",
    window: options.Window = "optimal",
    epistasis: options.CountOrZero = 0,
    untrained: options.CountOrZero = 3,
    seed: options.Seed = 0,
    batch_tokens: options.OptionalBatchTokens = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
) -> None:
    r"""Measure how well scores rank the effects of mutations, as in ProteinGym.

    Input:
        data: table of variants and measured effects, one assay or several (CSV, TSV, Parquet or
            Arrow, plain or .gz); or a ProteinGym folder with its reference file
        wild_type: `evaluation.variants.wild_type`
        reference: `evaluation.variants.reference`
        offset: `evaluation.variants.offset`
        variant_column: `evaluation.variants.variant_column`
        score_column: `evaluation.variants.score_column`
        compare: column of other predictions to compare with; repeat for several
    Measurement:
        epistasis: `evaluation.variants.epistasis`
        untrained: `evaluation.untrained`
        seed: random seed of double mutants, untrained networks and bootstrap

    Example:
        esm1b evaluate variants model BLAT_ECOLX_Ranganathan2015.csv --wild-type BLAT_ECOLX.fasta \
            --score-column 2500 --output evaluation/variants
    """


@runs("esm1b.report.page:write_report")
def report(
    model: options.ModelDirectory,
    corpus: options.Directory,
    training: options.File,
    evaluations: Annotated[list[Path], Option("--evaluation", metavar="DIR")],
    output: options.OutputDirectory,
    audit: options.OptionalFile = None,
) -> None:
    r"""Write the report: corpus, training curves, results beside published numbers.

    Input:
        corpus: corpus directory, written by shard
        training: metrics.jsonl of the run
        evaluations: directory written by evaluate; repeat for several
        audit: audit.json of the run, written by audit

    Example:
        esm1b report model --corpus corpus --training checkpoints/run/metrics.jsonl \
            --evaluation evaluation/perplexity --evaluation evaluation/contacts --output report
    """
