"""Model directories, written as Hugging Face's `EsmForMaskedLM`."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from esm1b.files import atomic_directory
from esm1b.model.contact_head import ContactHead
from esm1b.model.encoder import Encoder
from esm1b.weights.hugging_face import (
    CONTACT_HEAD,
    WEIGHTS,
    hugging_face_files,
    hugging_face_name,
)
from esm1b.weights.model_card import CardResult, model_card
from esm1b.weights.provenance import Provenance, write_provenance
from esm1b.weights.state import TrainedModel


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
        encoder: network to save.
        directory: directory to write.
        provenance: origin of the network.
        contact_head: fitted contact head; without one, its tensors are zero and marked unfitted.
        results: results of evaluations, for the model card.
    """
    model = TrainedModel(encoder=encoder, contact_head=contact_head, provenance=provenance)
    fitted = model.fitted_head is not None
    card = model_card(encoder.shape, provenance, contact_head_fitted=fitted, results=results)
    tensors = {hugging_face_name(name): tensor for name, tensor in model.state().items()}
    with atomic_directory(directory, "model") as temporary:
        save_file(tensors | model.regression(CONTACT_HEAD), temporary / WEIGHTS)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        # safetensors lets nobody else read its files.
        shutil.copymode(temporary / "README.md", temporary / WEIGHTS)
        for name, content in hugging_face_files(encoder.shape).items():
            (temporary / name).write_text(content, encoding="utf-8")
        write_provenance(temporary, provenance, contact_head=fitted)
