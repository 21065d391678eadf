"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

ModelDirectory = Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="model directory")]
OutputDirectory = Annotated[
    Path, typer.Option("--output", metavar="DIR", help="directory to write, new or replaced whole")
]
Untrained = Annotated[
    int, typer.Option(min=1, help="untrained networks of the same shape to measure beside it")
]
LongSequencesOption = Annotated[
    Literal["error", "windows", "truncate"],
    typer.Option(
        help="of more residues than the model takes: refuse them, look at them through "
        "overlapping windows, or keep only their first residues"
    ),
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="auto is cuda where there is any")
]
Fasta = Annotated[
    str, typer.Argument(metavar="FASTA", help="FASTA, plain or .gz; '-' is standard input")
]
