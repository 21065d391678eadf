import json
import logging
from pathlib import Path

import pytest

from esm1b.pretraining.monitor import Monitor, read_metrics


def lines(directory: Path) -> list[dict[str, float]]:
    text = (directory / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def attempt(directory: Path, first: int, values: dict[int, float]) -> None:
    monitor = Monitor(directory, first=first, last=10, active=True)
    for update, loss in values.items():
        monitor.advance(update)
        monitor.write(update, {"loss": loss})
    monitor.close()


def test_lines_have_update_and_attempt(tmp_path: Path) -> None:
    attempt(tmp_path, 0, {1: 3.5, 2: 3.25})
    assert lines(tmp_path) == [
        {"update": 1, "attempt": 1, "loss": 3.5},
        {"update": 2, "attempt": 1, "loss": 3.25},
    ]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_the_latest_attempt_counts(tmp_path: Path) -> None:
    attempt(tmp_path, 0, {1: 3.5, 2: 3.25, 3: 3.0})
    attempt(tmp_path, 1, {2: 3.125, 3: 2.875})
    assert len(lines(tmp_path)) == 5
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"update": 1, "attempt": 1, "loss": 3.5},
        {"update": 2, "attempt": 2, "loss": 3.125},
        {"update": 3, "attempt": 2, "loss": 2.875},
    ]


def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    attempt(tmp_path, 0, {1: 3.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 2, "attempt": 1, "lo')
    assert [line["update"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1]
    attempt(tmp_path, 1, {2: 3.25})
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"update": 1, "attempt": 1, "loss": 3.5},
        {"update": 2, "attempt": 2, "loss": 3.25},
    ]


def test_validation_is_a_line_of_its_own(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, first=0, last=10, active=True)
    monitor.write(5, {"loss": 3.0})
    monitor.write(5, {"validation_loss": 3.5})
    monitor.close()
    found = read_metrics(tmp_path / "metrics.jsonl")
    assert sorted(tuple(line) for line in found) == [
        ("update", "attempt", "loss"),
        ("update", "attempt", "validation_loss"),
    ]


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, first=0, last=10, active=False)
    monitor.advance(1)
    monitor.write(1, {"loss": 3.0})
    monitor.close()
    assert list(tmp_path.iterdir()) == []


def test_a_plain_log_line_where_there_is_no_terminal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        monitor = Monitor(tmp_path, first=0, last=10, active=True)
        monitor.write(1, {"loss": 3.14159, "gradient_norm": None})
        monitor.close()
    assert caplog.messages == ["update 1: loss=3.142"]
