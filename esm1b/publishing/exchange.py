"""Weights in and out: `esm1b import` and `esm1b export`, each verified by reading it back."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import torch

from esm1b.errors import UserError
from esm1b.evaluation.results import REGRESSION_FILE, Evaluation, read_evaluations
from esm1b.files import read_json, sha256_file
from esm1b.model.layers import ContactHead
from esm1b.model.shape import EncoderShape
from esm1b.outputs import own_output
from esm1b.report.catalogue import FACTS, SUBSET_NAMES, model_name, number_text
from esm1b.report.positive_control import has_control
from esm1b.weights.fair_esm import read_fair_esm, write_fair_esm
from esm1b.weights.model_card import CardResult
from esm1b.weights.model_directory import ModelDirectory
from esm1b.weights.save_model import save_model
from esm1b.weights.state import TrainedModel, verify_copy

_log = logging.getLogger(__name__)

_SYNTHETIC: Final = ("synthetic-families", "synthetic families")


def import_model(path: Path, output: Path) -> None:
    """Write the model directory of an ESM-1b, ESM-1v or ESM-2.

    `path` is a fair-esm `.pt` file or a Hugging Face directory.

    Raises:
        UserError: `path` is damaged, is of another model, or holds anything besides tensors and
            settings, none of which is run.
        RuntimeError: the copy that was read back differs; nothing is at `output` then.
    """
    with own_output(output, "model", [path]):
        if path.is_dir():
            directory = ModelDirectory(path)
            model, digest = directory.read(), directory.digest()
        else:
            model, digest = read_fair_esm(path), sha256_file(path)
        if not model.provenance.details:
            imported = {"name": path.absolute().name, "sha256": digest}
            provenance = replace(model.provenance, details={"imported": imported})
            model = replace(model, provenance=provenance)
        _save_verified(model, output, [])
    _log.info("%s: %d parameters in %s", path, model.encoder.shape.parameters(), output)


def export_model(
    model: Path,
    output: Path,
    *,
    format: Literal["hf", "fair-esm"],  # noqa: A002 (the name of the option)
    evaluations: Sequence[Path] = (),
) -> None:
    """Write a model directory for release, with its fitted contact head where one was measured.

    `output` is a directory (`hf`) or a file (`fair-esm`, with the contact regression beside it).
    The evaluation of contacts has the contact head, and the model card of `hf` shows all of them.

    Raises:
        UserError: a file is missing or damaged, or an evaluation is of another model.
        RuntimeError: the copy that was read back differs; nothing new is at `output` then.
    """
    is_directory = format == "hf"
    with own_output(output, "model" if is_directory else None, [model, *evaluations]):
        source = ModelDirectory(model)
        measured = read_evaluations(evaluations, source)
        released = source.read()
        shape = released.encoder.shape
        if "contacts" in measured:
            directory = measured["contacts"].directory
            assert directory is not None  # it was read from one
            released = replace(released, contact_head=_fitted_head(directory, shape))
        if is_directory:
            _save_verified(released, output, list(card_results(measured)))
        else:
            write_fair_esm(output, released)
    _log.info("%s: %d parameters in %s", model, shape.parameters(), output)


def _save_verified(model: TrainedModel, output: Path, results: Sequence[CardResult]) -> None:
    save_model(
        model.encoder,
        output,
        model.provenance,
        contact_head=model.contact_head,
        results=results,
        verify=lambda copy: verify_copy(ModelDirectory(copy).read(), model, output),
    )


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
        if type(number) not in (int, float) or not math.isfinite(number):
            raise UserError(f"{path}: coefficient or intercept {number!r}; expected a number")
    head = ContactHead(
        coefficients=torch.tensor(coefficients, dtype=torch.float32),
        intercept=torch.tensor(content["intercept"], dtype=torch.float32),
    )
    if not head.is_fitted:
        _log.info("%s: the regression kept no coefficient, so the contact head is zero", path)
        return None
    return head


def card_results(evaluations: Mapping[str, Evaluation]) -> Iterator[CardResult]:
    """Yield the results of a model's `evaluations` by kind, each number beside its baselines."""
    synthetic = has_control(evaluations)
    for kind, evaluation in evaluations.items():
        facts = FACTS[kind]
        dataset, dataset_name = _SYNTHETIC if synthetic else facts.dataset
        for name, (metric, metric_name) in facts.card.items():
            for subset in evaluation.subsets(name):
                trained = evaluation.metric(name, "trained", subset)
                if trained is None or subset == "not_fitted":  # pools the others
                    continue
                yield CardResult(
                    task=facts.task,
                    dataset=dataset,
                    dataset_name=dataset_name,
                    split=SUBSET_NAMES[subset],
                    metric=metric,
                    metric_name=metric_name,
                    value=trained.value,
                    low=trained.low,
                    high=trained.high,
                    units=evaluation.units(name, subset),
                    decimals=facts.decimals,
                    baselines=", ".join(_baselines(name, evaluation, subset, facts.decimals)),
                    failed=trained.failed,
                    synthetic=synthetic,
                )


def _baselines(name: str, evaluation: Evaluation, subset: str, decimals: int) -> Iterator[str]:
    for model in evaluation.models(name):
        number = evaluation.metric(name, model, subset)
        if model != "trained" and number is not None:
            text = "failed" if number.value is None else number_text(number.value, decimals)
            yield f"{model_name(model)} {text}"
