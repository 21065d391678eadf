import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from esm1b.errors import UserError
from esm1b.evaluation.results import read_evaluations
from esm1b.model.shape import EncoderShape
from esm1b.publishing.exchange import card_results
from esm1b.weights.model_card import CardResult, model_card
from esm1b.weights.model_directory import ModelDirectory
from esm1b.weights.provenance import Provenance
from tests.report import examples


def results_of(
    tmp_path: Path, *contents: dict[str, Any], model: Mapping[str, Any] = examples.MODEL
) -> list[CardResult]:
    directories = [
        examples.write_evaluation(tmp_path / content["evaluation"], content) for content in contents
    ]
    (tmp_path / "esm1b.json").write_text(json.dumps(model))
    return list(card_results(read_evaluations(directories, ModelDirectory(tmp_path))))


def test_every_evaluation_of_a_demonstration_is_there(tmp_path: Path) -> None:
    results = results_of(
        tmp_path,
        examples.variants(),
        examples.secondary_structure(),
        examples.contacts(),
        examples.perplexity(),
    )
    assert [(result.metric, result.split, result.value) for result in results] == [
        ("perplexity", "validation", 9.5),
        ("precision", "test", 0.5),
        ("precision", "never seen", 0.05),
        ("precision", "test", 0.3),
        ("accuracy", "test", 0.7),
        ("accuracy", "never seen", 0.7),
        ("spearmanr", "test", 0.8),
        ("spearmanr", "never seen", 0.8),
    ]
    perplexity, contacts, *_ = results
    assert perplexity.low == pytest.approx(8.55)
    assert perplexity.high == pytest.approx(10.45)
    assert perplexity.units == "50 clusters"
    assert perplexity.baselines == (
        "untrained networks 20.00, residue frequencies 18.00, site-independent bound 12.00, "
        "exact optimum 6.00"
    )
    assert contacts.units == "8 families"
    assert contacts.baselines == (
        "untrained networks 0.040, mean map 0.050, separation prior 0.060, random pairs 0.020"
    )
    assert all(result.synthetic for result in results)
    assert {result.dataset for result in results} == {"synthetic-families"}


def test_real_data_are_not_said_to_be_drawn(tmp_path: Path) -> None:
    results = results_of(
        tmp_path,
        examples.perplexity(synthetic=False),
        examples.contacts(unseen=False),
        examples.secondary_structure(unseen=False),
        examples.variants(synthetic=False),
    )
    assert not any(result.synthetic for result in results)
    assert [(result.dataset, result.split) for result in results] == [
        ("held-out-sequences", "validation"),
        ("structures", "test"),
        ("structures", "test"),
        ("secondary-structure", "test"),
        ("deep-mutational-scans", "all assays"),
        ("deep-mutational-scans", "all assays"),
    ]


def test_a_number_that_failed_says_so(tmp_path: Path) -> None:
    content = examples.contacts(unseen=False)
    name = "precision_at_contacts"
    content["metrics"] = [
        examples.metric(name, model, "test", value)
        for model, value in (("trained", None), ("untrained", None), ("mean_map", 0.05))
    ]
    (result,) = results_of(tmp_path, content)
    assert result.value is None
    assert result.failed == "the regression kept no coefficient at C = 500"
    assert result.baselines == "untrained networks failed, mean map 0.050"
    assert result.units == "8 families"


def test_the_card_of_an_evaluated_model_is_read_by_hugging_face(tmp_path: Path) -> None:
    results = results_of(
        tmp_path, examples.perplexity(), examples.contacts(), examples.secondary_structure()
    )
    text = model_card(
        EncoderShape(layers=1, width=4, heads=1, feed_forward=4),
        Provenance(details=dict(examples.MODEL)),
        contact_head_fitted=True,
        results=results,
    )
    data: Any = ModelCard(text).data
    assert data.model_name == "tiny"
    assert [(result.task_type, result.metric_value) for result in data.eval_results] == [
        ("fill-mask", 9.5),
        ("other", 0.5),
        ("other", 0.05),
        ("other", 0.3),
        ("token-classification", 0.7),
        ("token-classification", 0.7),
    ]


def test_an_evaluation_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is about another model"):
        results_of(tmp_path, examples.perplexity(), model={**examples.MODEL, "seed": 2})


def test_no_evaluation_is_no_result() -> None:
    assert list(card_results({})) == []
