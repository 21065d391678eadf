"""Types of the arguments and options; where several commands mean the same, with its help."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

Count = Annotated[int, Option(metavar="N", min=1)]
OptionalCount = Annotated[int | None, Option(metavar="N", min=1)]
Seed = Annotated[int, Option(metavar="N", min=0)]
Share = Annotated[float, Option(metavar="SHARE")]
OptionalShare = Annotated[float | None, Option(metavar="SHARE")]
File = Annotated[Path, Option(metavar="FILE")]
OptionalFile = Annotated[Path | None, Option(metavar="FILE")]
Directory = Annotated[Path, Option(metavar="DIR")]
OptionalDirectory = Annotated[Path | None, Option(metavar="DIR")]

RunConfig = Annotated[
    Path,
    Argument(metavar="RUN_CONFIG", help="run configuration, YAML or JSON", rich_help_panel="Input"),
]
ModelDirectory = Annotated[
    Path, Argument(metavar="MODEL_DIR", help="model directory", rich_help_panel="Input")
]
Fasta = Annotated[
    str,
    Argument(
        metavar="FASTA", help="FASTA, plain or .gz; '-' is standard input", rich_help_panel="Input"
    ),
]
LongSequences = Annotated[
    Literal["error", "windows", "truncate"],
    Option(
        help="treatment of sequences longer than the model takes: refuse them, read them through "
        "overlapping windows, or keep only their first residues",
        rich_help_panel="Input",
    ),
]
OutputDirectory = Annotated[
    Path,
    Option(
        metavar="DIR", help="directory to write, new or replaced whole", rich_help_panel="Output"
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    Option(help="device; auto: CUDA if there is a GPU", rich_help_panel="Hardware"),
]
