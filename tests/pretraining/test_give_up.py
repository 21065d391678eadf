from pathlib import Path

import pytest

from esm1b.errors import RunFailure, Stopped, UserError
from esm1b.pretraining.attempt_log import AttemptLog, read_attempts
from esm1b.pretraining.give_up import check_progress
from tests.pretraining.attempts import CLOSED, FAILURE, LAYOUT, attempt, killed


def refusal(directory: Path, update: int) -> str:
    with pytest.raises(RunFailure, match="stopped for good") as caught:
        check_progress(directory / "attempts.jsonl", update=update, layout=LAYOUT)
    return str(caught.value)


def test_two_failures_without_progress_stop_for_good(tmp_path: Path) -> None:
    attempt(tmp_path, 4, ValueError("first"))
    attempt(tmp_path, 4, ValueError("second\nwith details"))
    before = (tmp_path / "attempts.jsonl").read_bytes()
    message = (
        "stopped for good: 2 attempts from update 4 failed, the last with "
        f"'ValueError: second'; remove {tmp_path}/attempts.jsonl to try again"
    )
    assert refusal(tmp_path, 4) == message
    assert refusal(tmp_path, 4) == message
    assert (tmp_path / "attempts.jsonl").read_bytes() == before
    (tmp_path / "attempts.jsonl").unlink()
    attempt(tmp_path, 4)
    lines = read_attempts(tmp_path / "attempts.jsonl")
    assert [(line["attempt"], line["event"]) for line in lines] == [
        *((1, "started"), (1, "finished"))
    ]


def test_what_is_not_its_own_making_neither_counts_nor_forgives(tmp_path: Path) -> None:
    attempt(tmp_path, 4, FAILURE)
    killed(tmp_path, 4)
    attempt(tmp_path, 4, CLOSED)
    for _ in range(9):
        attempt(tmp_path, 4, Stopped("before any update"))
    attempt(tmp_path, 4, UserError("no space"))
    attempt(tmp_path, 4, FAILURE)
    assert refusal(tmp_path, 4).startswith("stopped for good: 2 attempts from update 4 failed")


def test_five_that_save_nothing_stop_for_good_whatever_ended_them(tmp_path: Path) -> None:
    for _ in range(2):
        killed(tmp_path, 4)
        attempt(tmp_path, 4, CLOSED)
        attempt(tmp_path, 4, Stopped("before any update"))
    killed(tmp_path, 8)  # progress
    for _ in range(2):
        killed(tmp_path, 4)  # the newer checkpoint was damaged
        attempt(tmp_path, 4, CLOSED)
    killed(tmp_path, 4)
    assert refusal(tmp_path, 4) == (
        "stopped for good: 5 attempts from update 4 were killed, lost a process or "
        f"failed before saving anything; remove {tmp_path}/attempts.jsonl to try again"
    )


def test_another_layout_is_no_repetition(tmp_path: Path) -> None:
    attempt(tmp_path, 4, FAILURE)
    attempt(tmp_path, 4, FAILURE)
    assert refusal(tmp_path, 4).startswith("stopped for good: 2 attempts from update 4 failed")
    smaller = LAYOUT | {"micro_batch_tokens": 16384}
    check_progress(tmp_path / "attempts.jsonl", update=4, layout=smaller)


def test_progress_forgives(tmp_path: Path) -> None:
    attempt(tmp_path, 4, FAILURE)
    attempt(tmp_path, 8, FAILURE)
    attempt(tmp_path, 12, FAILURE)
    # back to an earlier checkpoint, because the newer ones were damaged
    attempt(tmp_path, 4, FAILURE)
    attempt(tmp_path, 8)
    assert len(read_attempts(tmp_path / "attempts.jsonl")) == 10


def test_a_failure_counts_once(tmp_path: Path) -> None:
    told = AttemptLog(tmp_path, active=True)

    def fail_twice() -> None:
        with told.attempt(update=4, updates=9, layout=LAYOUT):
            told.failed("rank 1 on node2 failed: out of memory")
            raise ValueError("own")

    with pytest.raises(ValueError, match="own"):
        fail_twice()
    attempt(tmp_path, 4, FAILURE)  # is not refused yet
    assert refusal(tmp_path, 4).startswith("stopped for good: 2 attempts from update 4 failed")
