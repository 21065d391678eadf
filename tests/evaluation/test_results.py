import json
from pathlib import Path
from typing import Any

import numpy as np

from esm1b.evaluation.results import Interval, result_entry, write_metrics

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
        model=tmp_path,
        protocol={"C": 0.15},
        metrics=[metric(FULL)],
        comparisons=[result_entry(COMPARISON, FULL, n_unit="protein")],
        confusion={},
    )
    assert json.loads((tmp_path / "metrics.json").read_text()) == {
        "evaluation": "contacts",
        "model": {},
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
