"""Commands that bring weights in and out."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from esm1b.commands import options
from esm1b.commands.command import runs


@runs("esm1b.publishing.exchange:import_model")
def import_(
    path: Annotated[Path, Argument(metavar="PATH")],
    output: Annotated[Path, Option(metavar="MODEL_DIR")],
) -> None:
    """Convert released weights to a model directory; no code in the file is run.

    A contact regression is read from NAME-contact-regression.pt beside NAME.pt.

    Input:
        path: fair-esm .pt file or Hugging Face directory of ESM-1b, ESM-1v or ESM-2
    Output:
        output: model directory to write, new or replaced whole

    Example:
        esm1b import esm1b_t33_650M_UR50S.pt --output model
    """


@runs("esm1b.publishing.exchange:export_model")
def export(
    model: options.ModelDirectory,
    format: Annotated[  # noqa: A002 (the name of the option)
        Literal["fair-esm", "hf"], Option(metavar="fair-esm|hf")
    ],
    output: Annotated[Path, Option(metavar="PATH")],
    evaluations: Annotated[list[Path] | None, Option("--evaluation", metavar="DIR")] = None,
) -> None:
    """Write a model for fair-esm or Hugging Face, with contact head and results.

    The copy is read back and compared before it is moved into place.

    Input:
        evaluations: directory written by evaluate; repeat for several
    Output:
        format: library to write for: fair-esm, or hf for Hugging Face transformers
        output: file NAME.pt (fair-esm) or directory (hf) to write

    Example:
        esm1b export model --format fair-esm --output esm1b.pt --evaluation evaluation/contacts
    """
