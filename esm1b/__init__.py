"""ESM-1b, from UniRef50 to a trained, evaluated and exported model.

In Python, a model directory is used through `load`:

    model = esm1b.load("results/demonstration/release")
    model.representations(["MQIFVKTLTGKTITLEVEPS"])[0]     # [length, width]
"""

from pathlib import Path
from typing import TYPE_CHECKING

from esm1b.versions import __version__

if TYPE_CHECKING:
    from esm1b.inference.model import Device, Model, Precision

__all__ = ["__version__", "load"]


def load(
    path: Path | str, *, device: "Device" = "auto", precision: "Precision" = "auto"
) -> "Model":
    """Return the model of a directory, ready for use: `esm1b.inference.model.load_model`."""
    from esm1b.inference.model import load_model  # or every command would wait for torch

    return load_model(path, device=device, precision=precision)
