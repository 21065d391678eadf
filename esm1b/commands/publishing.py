"""Commands that bring weights in and out."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from esm1b.commands.options import ModelDirectory


def import_weights(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="fair-esm .pt file or Hugging Face directory: ESM-1b or ESM-1v"
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(metavar="MODEL_DIR", help="model directory to write, new or replaced whole"),
    ],
) -> None:
    """Turn released weights into a model directory; nothing that is in the file is run.

    A contact regression is taken from NAME-contact-regression.pt beside NAME.pt.

    Example: esm1b import esm1b_t33_650M_UR50S.pt --output model
    """
    from esm1b.publishing.exchange import import_model

    import_model(path, output)


def export_weights(
    model: ModelDirectory,
    format_: Annotated[
        Literal["fair-esm", "hf"], typer.Option("--format", help="whose: fair-esm or Hugging Face")
    ],
    output: Annotated[
        Path, typer.Option(metavar="PATH", help="NAME.pt (fair-esm) or directory (hf) to write")
    ],
    evaluations: Annotated[
        list[Path] | None,
        typer.Option("--evaluation", metavar="DIR", help="what evaluate wrote; repeat"),
    ] = None,
) -> None:
    """Write a model for others, with the contact head and the results of its evaluations.

    The copy is read back and compared before it gets its name.

    Example: esm1b export model --format fair-esm --output esm1b.pt
    --evaluation evaluation/contacts
    """
    from esm1b.publishing.exchange import export_model

    export_model(model, output, format=format_, evaluations=evaluations or ())
