"""Commands that use a model."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from esm1b.commands import options
from esm1b.commands.command import runs


@runs("esm1b.inference.embed:embed")
def embed(
    model_directory: options.ModelDirectory,
    fasta: options.Fasta,
    output: Annotated[Path, Option(metavar="FILE.parquet")],
    layers: Annotated[list[int] | None, Option(metavar="N")] = None,
    per_residue: Annotated[bool, Option("--per-residue")] = False,
    long_sequences: options.LongSequences = "error",
    batch_tokens: options.BatchTokens = 8192,
    device: options.Device = "auto",
    devices: Annotated[str, Option(metavar="N|all")] = "1",
    precision: options.Precision = "auto",
) -> None:
    """Write the representations of every sequence to a Parquet file, one row each.

    Rows are in the order of the input, with the columns id (the first word of the header), length,
    and layer_N for each layer. After an interruption, the same command resumes from
    FILE.parquet.parts.

    Output:
        output: Parquet file to write, new or replaced
        layers: layer to write: 0 for the embeddings, k for the output of layer k; the last layer,
            also -1, is taken after the final layer norm; repeat for several (-1 by default)
        per_residue: write a vector for each residue instead of their mean
    Hardware:
        devices: number of processes, on a GPU each or sharing the cores of a CPU; all: every GPU

    Example:
        esm1b embed model proteins.fasta.gz --output proteins.parquet --layers -1 --layers 0
    """


@runs("esm1b.inference.contact_maps:predict_contacts")
def contacts(
    model_directory: options.ModelDirectory,
    fasta: options.Fasta,
    output: options.OutputDirectory,
    method: Literal["head", "jacobian"] = "head",
    format: Literal["parquet", "npz"] = "parquet",  # noqa: A002 (the name of the option)
    pictures: Annotated[int, Option(metavar="N", min=0)] = 20,
    long_sequences: options.LongSequences = "error",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
) -> None:
    """Predict the contact map of every sequence, as numbers and as pictures.

    After an interruption, the same command resumes from DIR.parts.

    Prediction:
        method: head: probabilities by the fitted contact head, which released models and
            results/RUN/release of the workflow have; jacobian: couplings by the categorical
            Jacobian, of any model, in 20 passes a residue
    Output:
        format: format of the file with all maps
        pictures: number of maps to draw, the first ones of the file

    Example:
        esm1b contacts model proteins.fasta --output contacts
    """


@runs("esm1b.scoring.score:score")
def score(
    model_directory: options.ModelDirectory,
    fasta: options.Fasta,
    output: Annotated[Path, Option(metavar="FILE.parquet|FILE.csv")],
    single_pass: Annotated[bool, Option("--single-pass")] = False,
    per_residue: Annotated[bool, Option("--per-residue")] = False,
    window: options.Window = "optimal",
    batch_tokens: options.OptionalBatchTokens = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
) -> None:
    """Write the pseudo-log-likelihood and pseudo-perplexity of every sequence.

    Each residue is masked in a pass of its own, and its log-probability (nats, over the 33 tokens)
    summed; the perplexity is exp(-sum / length). Rows are in the order of the input. After an
    interruption, the same command resumes from FILE.parts.

    Output:
        output: Parquet or CSV file to write, new or replaced
        single_pass: one pass for each sequence, without masks, so that the network sees what it
            predicts; much faster, and in columns named single_pass_*
        per_residue: add the log-probability of each residue (Parquet only)

    Example:
        esm1b score model proteins.fasta.gz --output proteins.csv
    """


@runs("esm1b.scoring.variants:score_variant_table")
def variants(
    model_directory: options.ModelDirectory,
    wild_type: Annotated[str, Argument(metavar="WILD_TYPE")],
    output: options.OutputDirectory,
    mutants: Annotated[Path | None, Argument(metavar="MUTANTS")] = None,
    all_single: Annotated[bool, Option("--all")] = False,
    column: Annotated[str | None, Option(metavar="NAME")] = None,
    offset: Annotated[int, Option(metavar="N")] = 1,
    convention: options.Convention = "masked-marginals",
    window: options.Window = "optimal",
    batch_tokens: options.OptionalBatchTokens = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
) -> None:
    """Score the variants of a protein; the higher, the fitter.

    Writes variants.parquet and variants.csv with a row for each variant, and heat_map.svg of the
    single substitutions. Synonymous variants, stop codons, insertions and deletions have no score
    and are counted; a variant that does not fit the wild type is an error. After an interruption,
    the same command resumes from DIR.parts.

    Input:
        wild_type: FASTA with the wild type alone; '-': standard input
        mutants: table of variants (CSV, TSV, Parquet or Arrow, plain or .gz), as A12G, A12G:L30P,
            p.Ala12Gly or mutated sequences
        all_single: all single substitutions, in place of a table
        column: column of the variants, if it has none of the usual names, such as mutant or
            hgvs_pro
        offset: number of the first residue of the wild type in the names of mutations

    Example:
        esm1b variants model blat.fasta blat_mutants.csv --output blat --offset 24
    """


def fill_mask(
    model: options.ModelDirectory,
    sequence: Annotated[str, Argument(metavar="SEQUENCE")],
    top: Annotated[int, Option(metavar="N", min=1, max=33)] = 5,
    long_sequences: options.LongSequences = "error",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
) -> None:
    """Print the most probable tokens at each <mask>, best first.

    Input:
        sequence: residues, with <mask> at each position to predict
    Output:
        top: number of tokens to print for each mask

    Example:
        esm1b fill-mask model "MQIFVKTLTGKTITLEVEPS<mask>TIENVKAKIQDKEG"
    """
    from esm1b.inference.fill_mask import candidate_table
    from esm1b.inference.fill_mask import fill_mask as run
    from esm1b.inference.model import load_model

    loaded = load_model(model, device=device, precision=precision)
    candidates = run(loaded, sequence, top, long_sequences=long_sequences)
    print(candidate_table(candidates))
