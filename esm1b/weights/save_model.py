"""Model directories, written as Hugging Face's `EsmForMaskedLM`."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from esm1b.files import atomic_directory
from esm1b.model.contact_head import ContactHead
from esm1b.model.encoder import Encoder
from esm1b.weights.hugging_face import hugging_face_files, hugging_face_names
from esm1b.weights.model_card import CardResult, model_card
from esm1b.weights.provenance import Provenance, write_provenance
from esm1b.weights.state import released_state

_WEIGHTS: Final = "model.safetensors"
_CONTACT_HEAD: Final = "esm.contact_head.regression"


def save_model(
    encoder: Encoder,
    directory: Path,
    provenance: Provenance,
    *,
    contact_head: ContactHead | None = None,
    results: Sequence[CardResult] = (),
) -> None:
    """Write a directory that `transformers` loads with no missing and no unexpected key.

    Args:
        encoder: the network.
        directory: where to.
        provenance: where the model comes from.
        contact_head: None: zero, and said to be unfitted.
        results: of evaluations, for the model card.
    """
    fitted = contact_head is not None and contact_head.is_fitted
    card = model_card(encoder.shape, provenance, contact_head_fitted=fitted, results=results)
    with atomic_directory(directory, "model") as temporary:
        save_file(_hugging_face_tensors(encoder, provenance, contact_head), temporary / _WEIGHTS)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        # safetensors lets nobody else read its files.
        shutil.copymode(temporary / "README.md", temporary / _WEIGHTS)
        for name, content in hugging_face_files(encoder.shape).items():
            (temporary / name).write_text(content, encoding="utf-8")
        write_provenance(temporary, provenance, contact_head=fitted)


def _hugging_face_tensors(
    encoder: Encoder, provenance: Provenance, contact_head: ContactHead | None
) -> dict[str, Tensor]:
    state = released_state(encoder, provenance).values()
    tensors = dict(zip(hugging_face_names(encoder), state, strict=True))
    channels = encoder.shape.layers * encoder.shape.heads
    coefficients, intercept = torch.zeros(channels), torch.zeros(())
    if contact_head is not None:
        coefficients, intercept = contact_head.coefficients, contact_head.intercept
    tensors[f"{_CONTACT_HEAD}.weight"] = coefficients.reshape(1, channels).clone()
    tensors[f"{_CONTACT_HEAD}.bias"] = intercept.reshape(1).clone()
    return tensors
