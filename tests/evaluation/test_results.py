import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esm1b.errors import UserError
from esm1b.evaluation.results import (
    Interval,
    parse_evaluation,
    read_evaluations,
    result_entry,
    write_metrics,
)
from esm1b.weights.model_directory import ModelDirectory

FULL = Interval(value=0.5, low=0.25, high=0.75, n=4)
ONE_GROUP = Interval(value=0.5, low=np.nan, high=np.nan, n=1)
NONE = Interval(value=np.nan, low=np.nan, high=np.nan, n=0)


METRIC = {"name": "precision", "model": "trained", "subset": "test"}
COMPARISON = {
    "name": "precision", "subset": "test", "model": "trained", "against": "untrained",
    "against_subset": "test",
}  # fmt: skip


def metric(interval: Interval, failed: str | None = None) -> dict[str, Any]:
    return result_entry(METRIC, interval, unit="fraction", n_unit="protein", failed=failed)


def test_metrics_are_written_as_the_report_reads_them(tmp_path: Path) -> None:
    write_metrics(
        tmp_path,
        evaluation="contacts",
        model=ModelDirectory(tmp_path),
        inputs={"options": {"seed": 0}},
        protocol={"C": 0.15},
        metrics=[metric(FULL)],
        comparisons=[result_entry(COMPARISON, FULL, n_unit="protein")],
        confusion={},
    )
    assert json.loads((tmp_path / "metrics.json").read_text()) == {
        "evaluation": "contacts",
        "model": {},
        "inputs": {"options": {"seed": 0}},
        "protocol": {"C": 0.15},
        "metrics": [
            {
                "name": "precision", "model": "trained", "subset": "test", "value": 0.5,
                "low": 0.25, "high": 0.75, "unit": "fraction", "n": 4, "n_unit": "protein",
            }
        ],
        "comparisons": [
            {
                "name": "precision", "subset": "test", "model": "trained", "against": "untrained",
                "against_subset": "test", "difference": 0.5, "low": 0.25, "high": 0.75, "n": 4,
                "n_unit": "protein",
            }
        ],
        "confusion": {},
    }  # fmt: skip


def test_what_is_undefined_is_null() -> None:
    alone = metric(ONE_GROUP)
    assert (alone["value"], alone["low"], alone["high"]) == (0.5, None, None)
    assert "failed" not in alone
    nothing = metric(NONE)
    assert (nothing["value"], nothing["failed"]) == (None, "no group has a value")


def test_a_failure_has_no_value() -> None:
    failed = metric(FULL, failed="no coefficient")
    assert (failed["value"], failed["low"], failed["failed"]) == (None, None, "no coefficient")


def evaluated(directory: Path, model: Path, inputs: dict[str, Any]) -> Path:
    """Write an evaluation of a model that has no `esm1b.json`."""
    directory.mkdir(exist_ok=True)
    write_metrics(
        directory,
        evaluation="contacts",
        model=ModelDirectory(model),
        inputs=inputs,
        protocol={},
        metrics=[],
        comparisons=[],
    )
    return directory


def test_an_evaluation_of_other_weights_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_text("weights")
    named = {"name": "model", "sha256": ModelDirectory(model).digest()}
    directory = evaluated(tmp_path / "out", model, {"model": named})
    assert read_evaluations([directory], ModelDirectory(model)).keys() == {"contacts"}
    (model / "model.safetensors").write_text("other weights of the same recipe")
    with pytest.raises(UserError, match=r"is about another model \(weights differ\)"):
        read_evaluations([directory], ModelDirectory(model))


def test_older_files_name_no_inputs(tmp_path: Path) -> None:
    directory = evaluated(tmp_path / "out", tmp_path, {})
    content = json.loads((directory / "metrics.json").read_text())
    del content["inputs"]
    (directory / "metrics.json").write_text(json.dumps(content))
    assert read_evaluations([directory], ModelDirectory(tmp_path)).keys() == {"contacts"}


def test_units_are_those_of_a_model_that_did_not_fail() -> None:
    of_baseline = result_entry(
        {**METRIC, "model": "mean_map"}, FULL, unit="fraction", n_unit="protein"
    )
    failed = metric(NONE, failed="no coefficient")
    content = {"metrics": [failed, of_baseline], "comparisons": []}
    assert parse_evaluation(content).units("precision", "test") == "4 proteins"
    alone = {"metrics": [failed], "comparisons": []}
    assert parse_evaluation(alone).units("precision", "test") == "0 proteins"
