"""Weights in and out: `esm1b import` and `esm1b export`, each verified by reading it back."""

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from esm1b.errors import UserError
from esm1b.evaluation.results import REGRESSION_FILE, describe_model, read_evaluations
from esm1b.files import atomic_directory, check_replaceable, read_json, sha256_file
from esm1b.inference.weights_digest import weights_digest
from esm1b.model.contact_head import ContactHead
from esm1b.model.encoder import Encoder
from esm1b.model.shape import EncoderShape
from esm1b.publishing.card_results import card_results
from esm1b.weights.fair_esm import read_fair_esm, write_fair_esm
from esm1b.weights.hugging_face_reader import read_hugging_face
from esm1b.weights.model_card import CardResult
from esm1b.weights.provenance import Provenance, read_provenance
from esm1b.weights.save_model import save_model
from esm1b.weights.state import verify_copy

_log = logging.getLogger(__name__)


def import_model(path: Path, output: Path) -> None:
    """Write the model directory of released weights.

    Args:
        path: a fair-esm `.pt` file of ESM-1b or ESM-1v, or a Hugging Face directory of one.
        output: directory to write.

    Raises:
        UserError: `path` is damaged, is of another model, or holds anything besides tensors and
            settings, none of which is run.
        RuntimeError: what was read back differs; nothing is at `output` then.
    """
    check_replaceable(output, "model", [path])
    if path.is_dir():
        provenance = read_provenance(path)
        encoder, contact_head = read_hugging_face(path)
        digest = weights_digest(path)
    else:
        model = read_fair_esm(path)
        encoder, contact_head, provenance = model.encoder, model.contact_head, model.provenance
        digest = sha256_file(path)
    if not provenance.details:
        imported = {"name": path.absolute().name, "sha256": digest}
        provenance = replace(provenance, details={"imported": imported})
    _save_verified(encoder, output, provenance, contact_head, [])
    _log.info("%s: %d parameters in %s", path, encoder.shape.parameters(), output)


def export_model(
    model: Path,
    output: Path,
    *,
    format: Literal["hf", "fair-esm"],  # noqa: A002 (the name of the option)
    evaluations: Sequence[Path] = (),
) -> None:
    """Write a model for release, with its fitted contact head where one was measured.

    Args:
        model: model directory.
        output: directory (`hf`) or file (`fair-esm`, with the contact regression beside it).
        format: whose.
        evaluations: what `esm1b evaluate` wrote about this model. That of contacts gives the
            contact head; under `hf` all of them go to the model card.

    Raises:
        UserError: a file is missing or damaged, or an evaluation is of another model.
        RuntimeError: what was read back differs; nothing new is at `output` then.
    """
    if format == "hf":
        check_replaceable(output, "model", [model, *evaluations])
    measured = read_evaluations(evaluations, describe_model(model))
    encoder, contact_head = read_hugging_face(model)
    provenance = read_provenance(model)
    if "contacts" in measured:
        directory = measured["contacts"].directory
        assert directory is not None  # it was read from one
        contact_head = _fitted_head(directory, encoder.shape)
    if format == "hf":
        _save_verified(encoder, output, provenance, contact_head, list(card_results(measured)))
    else:
        write_fair_esm(output, encoder, provenance, contact_head)
    _log.info("%s: %d parameters in %s", model, encoder.shape.parameters(), output)


def _save_verified(
    encoder: Encoder,
    output: Path,
    provenance: Provenance,
    contact_head: ContactHead | None,
    results: Sequence[CardResult],
) -> None:
    with atomic_directory(output, "model") as temporary:
        inner = temporary / "model"
        save_model(encoder, inner, provenance, contact_head=contact_head, results=results)
        if read_provenance(inner) != provenance:
            raise RuntimeError(f"{output}: read back, the provenance differs from what was written")
        verify_copy(
            *read_hugging_face(inner),
            encoder=encoder,
            provenance=provenance,
            contact_head=contact_head,
            path=output,
        )
        for file in inner.iterdir():
            os.rename(file, temporary / file.name)
        inner.rmdir()


def _fitted_head(directory: Path, shape: EncoderShape) -> ContactHead | None:
    """Return the regression that an evaluation of contacts fitted, None where the fit failed.

    Raises:
        UserError: the file is missing or damaged, or the regression is of another network.
    """
    path = directory / REGRESSION_FILE
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected what evaluate contacts writes")
    for key, expected in (("layers", shape.layers), ("heads", shape.heads)):
        if content.get(key) != expected:
            raise UserError(f"{path}: {key} is {content.get(key)!r}; the model has {expected}")
    coefficients, channels = content.get("coefficients"), shape.layers * shape.heads
    if not isinstance(coefficients, list) or len(coefficients) != channels:
        raise UserError(
            f"{path}: expected {channels} coefficients, one for each head of each layer"
        )
    for number in (*coefficients, content.get("intercept")):
        if not _is_finite(number):
            raise UserError(f"{path}: coefficient or intercept {number!r}; expected a number")
    head = ContactHead(
        coefficients=torch.tensor(coefficients, dtype=torch.float32),
        intercept=torch.tensor(content["intercept"], dtype=torch.float32),
    )
    if not head.is_fitted:
        _log.info("%s: the regression kept no coefficient, so the contact head is zero", path)
        return None
    return head


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
