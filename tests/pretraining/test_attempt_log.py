import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esm1b.errors import RunFailure, Stopped, StoppedForGood, UserError
from esm1b.pretraining.attempt_log import AttemptLog, read_attempts
from tests.pretraining.attempts import CLOSED, FAILURE, LAYOUT, NODES, attempt, killed

NO_WORD = "no process could say why: all were killed at once, or the input was invalid"


def events(directory: Path) -> list[tuple[int, str, Any]]:
    lines = read_attempts(directory / "attempts.jsonl")
    return [
        (line["attempt"], line["event"], line.get("update", line.get("message"))) for line in lines
    ]


def test_how_attempts_end(tmp_path: Path) -> None:
    attempt(tmp_path, 0, Stopped("saved after update 3"))
    killed(tmp_path, 3)
    attempt(tmp_path, 3, FAILURE)
    attempt(tmp_path, 3, CLOSED)
    attempt(tmp_path, 5, UserError("config.yaml: wrong"))
    attempt(tmp_path, 5, KeyboardInterrupt())
    attempt(tmp_path, 5)
    assert events(tmp_path) == [
        (1, "started", 0),
        (1, "stopped", "saved after update 3"),
        (2, "started", 3),
        (2, "lost", NO_WORD),
        (3, "started", 3),
        (3, "failed", "ArithmeticError: the loss is nan"),
        (4, "started", 3),
        (4, "lost", f"another process went away, unknown which: {CLOSED}"),
        (5, "started", 5),
        (5, "lost", NO_WORD),
        (6, "started", 5),
        (6, "lost", NO_WORD),
        (7, "started", 5),
        (7, "finished", None),
    ]


def test_numbers_go_on_where_the_attempts_were_forgotten(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"update": 4, "attempt": 6, "loss": 3.0}\n')
    attempt(tmp_path, 4)
    attempt(tmp_path, 4)
    assert [number for number, _, _ in events(tmp_path)] == [7, 7, 8, 8]


def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    attempt(tmp_path, 4, FAILURE)
    with (tmp_path / "attempts.jsonl").open("a") as file:
        file.write('{"attempt": 2, "eve')
    attempt(tmp_path, 4)
    assert [event for _, event, _ in events(tmp_path)] == [
        *("started", "failed", "started", "finished")
    ]


def test_an_attempt_says_where_it_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt(tmp_path, 0)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    attempt(tmp_path, 9)
    started = [line for line in read_attempts(tmp_path / "attempts.jsonl") if "layout" in line]
    assert [(line["job"], line["nodes"]) for line in started] == [
        *((None, ["n1", "n2"]), ("SLURM job 4711", ["n1", "n2"]))
    ]


def under_way(directory: Path, *ranks: int) -> list[AttemptLog]:
    """Return the logs of these processes of an attempt."""
    logs = [AttemptLog(directory, rank=rank) for rank in ranks]
    for log in logs:
        log.attempt(1, update=4, updates=9, layout=LAYOUT, nodes=NODES).__enter__()
    return logs


def test_a_verdict_names_ranks_and_nodes_and_is_the_last_word(tmp_path: Path) -> None:
    (log,) = under_way(tmp_path, 0)
    log.judged("lost", "rank 2 on n2 died; rank 3 on n2 died", {2: "n2", 3: "n2"})
    log.settle()
    logging.getLogger("esm1b").warning("rank 2 on n2 died; rank 0 on n1 ends")
    _, ending = read_attempts(log.path)
    del ending["time"]
    assert ending == {
        "attempt": 1,
        "event": "lost",
        "message": "rank 2 on n2 died; rank 3 on n2 died",
        "ranks": [2, 3],
        "nodes": ["n2"],
    }


def test_without_a_verdict_nobody_is_blamed(tmp_path: Path) -> None:
    attempt(tmp_path, 4, CLOSED)
    ending = read_attempts(tmp_path / "attempts.jsonl")[-1]
    assert ending["message"].startswith("another process went away, unknown which: ")
    assert "ranks" not in ending


def test_where_rank_0_died_one_of_the_others_says_so(tmp_path: Path) -> None:
    _, *others = under_way(tmp_path, 0, 1, 3)
    for log in others:
        log.judged("lost", "rank 0 on n1 died", {0: "n1"})
    assert [line["event"] for line in read_attempts(others[0].path)] == ["started", "lost"]


def test_an_own_failure_names_this_process_but_not_where_all_fail_alike(tmp_path: Path) -> None:
    attempt(tmp_path, 4, FAILURE)
    attempt(tmp_path, 8, RunFailure("process 2 of 4: disk full"))
    lines = read_attempts(tmp_path / "attempts.jsonl")
    failed = [line for line in lines if line["event"] == "failed"]
    assert [line["ranks"] for line in failed] == [[0], []]
    assert failed[0]["nodes"] == [os.uname().nodename]


def test_verdicts_before_the_attempt_are_not_recorded(tmp_path: Path) -> None:
    AttemptLog(tmp_path, rank=0).judged("failed", "rank 1 on n2 failed: reading", {1: "n2"})
    assert list(tmp_path.iterdir()) == []


def fail(log: AttemptLog, before: Callable[[int], None] = lambda number: None) -> None:
    with log.attempt(1, update=4, updates=9, layout=LAYOUT, nodes=NODES):
        before(1)
        raise ValueError("x")


def full_disk(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


def test_warnings_of_the_package_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, package = AttemptLog(tmp_path, rank=0), logging.getLogger("esm1b.pretraining")
    with log.attempt(1, update=4, updates=9, layout=LAYOUT, nodes=NODES):
        package.warning("update %d: its gradient is not finite", 5)
        package.info("update 6 of 9")
        logging.getLogger("torch").warning("something else")
        with monkeypatch.context() as broken:  # a log that cannot be written warns once
            broken.setattr(os, "fsync", full_disk)
            package.warning("not recorded")
    package.warning("after the attempt")
    recorded = [line for line in read_attempts(log.path) if line["event"] == "warning"]
    assert [line["message"] for line in recorded][:1] == ["update 5: its gradient is not finite"]
    assert all(line["attempt"] == 1 for line in recorded)
    assert "after the attempt" not in log.path.read_text()
    assert "something else" not in log.path.read_text()


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    others = AttemptLog(tmp_path, rank=2)
    with pytest.raises(ValueError, match="x"):
        fail(others)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = AttemptLog(tmp_path, rank=0)
    with pytest.raises(ValueError, match="x"):
        fail(failing, before=lambda number: monkeypatch.setattr(os, "fsync", full_disk))
    assert caplog.messages == [
        f"{tmp_path}/attempts.jsonl: No space left on device; not recorded: attempt failed"
    ]


def refusal(directory: Path, update: int) -> str:
    with pytest.raises(StoppedForGood, match="stopped for good") as caught:
        AttemptLog(directory, rank=0).next_attempt(update=update, layout=LAYOUT)
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
    assert AttemptLog(tmp_path, rank=0).next_attempt(update=4, layout=smaller) == 3


def test_progress_forgives(tmp_path: Path) -> None:
    attempt(tmp_path, 4, FAILURE)
    attempt(tmp_path, 8, FAILURE)
    attempt(tmp_path, 12, FAILURE)
    # back to an earlier checkpoint, because the newer ones were damaged
    attempt(tmp_path, 4, FAILURE)
    attempt(tmp_path, 8)
    assert len(read_attempts(tmp_path / "attempts.jsonl")) == 10


def test_a_failure_counts_once(tmp_path: Path) -> None:
    told = AttemptLog(tmp_path, rank=0)

    def fail_twice() -> None:
        with told.attempt(1, update=4, updates=9, layout=LAYOUT, nodes=NODES):
            told.judged("failed", "rank 1 on n2 failed: out of memory", {1: "n2"})
            raise ValueError("own")

    with pytest.raises(ValueError, match="own"):
        fail_twice()
    attempt(tmp_path, 4, FAILURE)  # is not refused yet
    assert refusal(tmp_path, 4).startswith("stopped for good: 2 attempts from update 4 failed")
