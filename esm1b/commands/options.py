"""Types of arguments and options; the shared ones have the help that is the same everywhere."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

Count = Annotated[int, Option(metavar="N", min=1)]
CountOrZero = Annotated[int, Option(metavar="N", min=0)]
OptionalCount = Annotated[int | None, Option(metavar="N", min=1)]
Seed = Annotated[int, Option(metavar="N", min=0)]
Share = Annotated[float, Option(metavar="SHARE")]
OptionalShare = Annotated[float | None, Option(metavar="SHARE")]
File = Annotated[Path, Option(metavar="FILE")]
OptionalFile = Annotated[Path | None, Option(metavar="FILE")]
Directory = Annotated[Path, Option(metavar="DIR")]
OptionalDirectory = Annotated[Path | None, Option(metavar="DIR")]

_input = partial(Argument, rich_help_panel="Input")
_hardware = partial(Option, rich_help_panel="Hardware")
RunConfig = Annotated[
    Path,
    _input(metavar="RUN_CONFIG", help="configuration file, YAML or JSON, as in config/README.md"),
]
ModelDirectory = Annotated[Path, _input(metavar="MODEL_DIR", help="model directory")]
Fasta = Annotated[str, _input(metavar="FASTA", help="FASTA, plain or .gz; '-': standard input")]
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
        metavar="DIR",
        help="directory to write; an earlier output is replaced",
        rich_help_panel="Output",
    ),
]
Convention = Annotated[
    Literal[
        "masked-marginals",
        "masked-marginals-joint",
        "wildtype-marginals",
        "mutant-marginals",
        "pseudo-perplexity",
    ],
    Option(
        metavar="NAME",
        help="definition of the score (Meier et al. 2021): log-odds of mutant and wild type where "
        "each mutated position is masked alone (masked-marginals), all of a variant together "
        "(masked-marginals-joint), or none, in the wild type (wildtype-marginals) or the variant "
        "(mutant-marginals); or the difference of the two pseudo-log-likelihoods "
        "(pseudo-perplexity)",
        rich_help_panel="Measurement",
    ),
]
BatchTokens = Annotated[
    int, _hardware(metavar="N", min=1, help="number of tokens in one forward pass")
]
OptionalBatchTokens = Annotated[
    int | None,
    _hardware(
        metavar="N",
        min=1,
        help="number of tokens in one forward pass (4,608 on a CPU, 32,768 on a GPU)",
    ),
]
Window = Annotated[
    Literal["optimal", "overlapping"],
    Option(
        help="treatment of proteins longer than the model takes: optimal reads each position from "
        "the window around it, overlapping averages overlapping windows with ProteinGym's weights",
        rich_help_panel="Input",
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    _hardware(help="device; auto: CUDA if found; mps is untested"),
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"],
    _hardware(help="precision of the networks; auto: fp32; results are written as fp32"),
]
