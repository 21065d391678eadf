import json
import os
from pathlib import Path
from typing import Any

import pytest

from esm1b.errors import UserError
from esm1b.pretraining.progress import read_progress

STARTED = {"attempt": 1, "event": "started", "update": 0, "updates": 2200}
LOSS = {"update": 1240, "attempt": 1, "loss": 2.2144, "tokens_per_second": 51234.4}
VALIDATION = {"update": 1250, "attempt": 1, "validation_loss": 2.1}


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_run_that_is_training(tmp_path: Path) -> None:
    write(tmp_path / "attempts.jsonl", [STARTED])
    write(tmp_path / "metrics.jsonl", [LOSS, VALIDATION])
    (tmp_path / "run.json").write_text('{"pretraining.tokens_per_update": 4096}')
    os.utime(tmp_path / "metrics.jsonl", (0, 0))
    progress = read_progress(tmp_path)
    assert (progress.update, progress.updates, progress.attempts) == (1240, 2200, 1)
    assert progress.state == "training"
    assert progress.seconds_ago is not None
    assert progress.seconds_ago > 1e9
    assert (
        progress.line == "update 1,240 of 2,200, loss 2.214, 51,234 tokens/s, 01:16 left"
    )  # 960 x 4096 / 51234.4 s


def test_before_the_first_line(tmp_path: Path) -> None:
    write(tmp_path / "attempts.jsonl", [STARTED])
    assert read_progress(tmp_path).line == "update 0 of 2,200"


@pytest.mark.parametrize(
    ("ending", "state"),
    [
        ({"event": "finished"}, "finished"),
        ({"event": "stopped", "message": "saved after update 9"}, "stopped: saved after update 9"),
    ],
)
def test_a_run_that_has_ended(tmp_path: Path, ending: dict[str, str], state: str) -> None:
    write(tmp_path / "attempts.jsonl", [STARTED, {"attempt": 1, **ending}])
    progress = read_progress(tmp_path)
    assert progress.state == state
    assert "left" not in progress.line


def test_the_newest_attempt_and_warning_count(tmp_path: Path) -> None:
    lines = [
        STARTED,
        {"attempt": 1, "event": "warning", "message": "first"},
        {"attempt": 1, "event": "warning", "message": "second"},
        {"attempt": 1, "event": "lost", "message": "gone"},
        {**STARTED, "attempt": 2, "update": 100},
    ]
    write(tmp_path / "attempts.jsonl", lines)
    progress = read_progress(tmp_path)
    assert (progress.attempts, progress.state, progress.warning) == (2, "training", "second")


def test_attempts_are_told_with_job_nodes_and_cause(tmp_path: Path) -> None:
    where = {"job": "SLURM job 4711", "nodes": ["n1", "n2"]}
    lines = [
        STARTED,  # of an older version, killed
        {**STARTED, **where, "attempt": 2, "update": 1300},
        {"attempt": 2, "event": "lost", "message": "rank 3 on n2 died", "ranks": [3]},
        {**STARTED, **where, "job": None, "attempt": 3, "update": 1300},
    ]
    write(tmp_path / "attempts.jsonl", lines)
    assert read_progress(tmp_path).history == (
        "1: from update 0: no end recorded: under way or killed",
        "2: SLURM job 4711 on n1, n2 from update 1,300: lost: rank 3 on n2 died",
        "3: on n1, n2 from update 1,300: no end recorded: under way or killed",
    )


def test_only_the_end_of_long_metrics_is_read_and_torn_lines_do_not_count(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", [{**LOSS, "update": n} for n in range(1000)])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 1001, "loss": 2.')
    assert read_progress(tmp_path).update == 999


def test_a_run_of_an_older_version_records_no_number_of_updates(tmp_path: Path) -> None:
    write(tmp_path / "attempts.jsonl", [{"attempt": 1, "event": "started", "update": 0}])
    write(tmp_path / "metrics.jsonl", [LOSS])
    assert read_progress(tmp_path).line == "update 1,240, loss 2.214, 51,234 tokens/s"


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}: no metrics.jsonl and no attempts.jsonl"):
        read_progress(tmp_path)
