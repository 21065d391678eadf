"""Commands that use a model."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from esm1b.commands.options import (
    DeviceOption,
    Fasta,
    LongSequencesOption,
    ModelDirectory,
    OutputDirectory,
)


def embed(
    model: ModelDirectory,
    fasta: Fasta,
    output: Annotated[
        Path, typer.Option(metavar="FILE.parquet", help="Parquet file to write, new or replaced")
    ],
    layers: Annotated[
        list[int] | None,
        typer.Option(
            "--layers",
            metavar="N",
            help="0 is the input of the stack, -1 what leaves the last layer norm; repeat for "
            "several  [default: -1]",
        ),
    ] = None,
    per_residue: Annotated[
        bool, typer.Option("--per-residue", help="a vector for each residue, not their mean")
    ] = False,
    long_sequences: LongSequencesOption = "error",
    batch_tokens: Annotated[
        int, typer.Option(min=1, help="tokens that run through the network at once")
    ] = 8192,
    device: DeviceOption = "auto",
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="of the network; what is written is fp32")
    ] = "fp32",
) -> None:
    """Write the representations of every sequence to a Parquet file, a row each, in their order.

    Columns: id (the first word of the header), length, and layer_N for each layer. Killed or
    stopped, the same command goes on from FILE.parquet.parts.

    Example: esm1b embed model proteins.fasta.gz --output proteins.parquet --layers -1 --layers 0
    """
    from esm1b.inference.embed import embed as run

    run(
        model,
        fasta,
        output,
        layers=layers or [-1],
        per_residue=per_residue,
        long_sequences=long_sequences,
        batch_tokens=batch_tokens,
        device=device,
        precision=precision,
    )


def predict_contacts(
    model: ModelDirectory,
    fasta: Fasta,
    output: OutputDirectory,
    format_: Annotated[
        Literal["parquet", "npz"], typer.Option("--format", help="of the file with all maps")
    ] = "parquet",
    pictures: Annotated[
        int, typer.Option(min=0, help="maps to draw, the first ones of the file")
    ] = 20,
    long_sequences: LongSequencesOption = "error",
    device: DeviceOption = "auto",
) -> None:
    """Predict the contact map of every sequence, as numbers and as pictures.

    The model needs a fitted contact head, as released models have, and results/RUN/release of the
    workflow.

    Example: esm1b contacts model proteins.fasta --output contacts
    """
    from esm1b.inference.contact_maps import predict_contacts as run

    run(
        model,
        fasta,
        output,
        format=format_,
        pictures=pictures,
        long_sequences=long_sequences,
        device=device,
    )


def fill_mask(
    model: ModelDirectory,
    sequence: Annotated[
        str, typer.Argument(metavar="SEQUENCE", help="residues, and <mask> where to predict")
    ],
    top: Annotated[int, typer.Option(min=1, max=33, help="tokens to show for each mask")] = 5,
    long_sequences: LongSequencesOption = "error",
    device: DeviceOption = "auto",
) -> None:
    """Print what the model expects at each <mask>, the most probable first.

    Example: esm1b fill-mask model "MQIFVKTLTGKTITLEVEPS<mask>TIENVKAKIQDKEG"
    """
    from esm1b.inference.fill_mask import candidate_table
    from esm1b.inference.fill_mask import fill_mask as run
    from esm1b.inference.load_model import load_model

    candidates = run(load_model(model, device=device), sequence, top, long_sequences=long_sequences)
    print(candidate_table(candidates))
