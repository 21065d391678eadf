"""Models of a directory, ready for use."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from esm1b.errors import UserError
from esm1b.inference.model import Model
from esm1b.weights.model_directory import ModelDirectory

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_model(
    path: Path | str, *, device: Device = "auto", precision: Precision = "fp32"
) -> Model:
    """Read a model directory: ESM-1b's or ESM-1v's, or, through `transformers`, ESM-2's.

    The device "auto" is CUDA where it is available.

    Raises:
        UserError: a file is missing or damaged, or does not describe such a model.
    """
    directory = ModelDirectory(Path(path))
    if directory.path.is_file():
        raise UserError(
            f"{directory.path}: is a file; expected a model directory, which esm1b import makes "
            "of a .pt file"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda, but PyTorch finds no CUDA device; expected cpu or auto")
    has_cuda = device != "cpu" and torch.cuda.is_available()
    place, dtype = torch.device("cuda" if has_cuda else "cpu"), _DTYPES[precision]
    if directory.is_esm2:
        from esm1b.inference.transformers_network import load_transformers

        return load_transformers(directory, place, dtype)
    trained = directory.read()
    provenance = trained.provenance
    return Model(
        network=trained.encoder.to(place, dtype),
        rare_residues=provenance.rare_residues,
        append_eos=provenance.append_eos,
        longest_sequence=provenance.longest_sequence(trained.encoder.shape),
        contact_head=trained.contact_head,
        directory=directory,
    )


def untrained_model(like: Model, seed: int) -> Model:
    """Return `like` with a network of the same shape that is initialised for training by `seed`."""
    return replace(like, network=like.network.untrained(seed), contact_head=None)
