import os
from pathlib import Path
from typing import Any

import pytest

from esm1b.errors import Stopped, UserError
from esm1b.pretraining.attempt_log import AttemptLog, NoProgress, read_attempts
from esm1b.pretraining.distributed.collectives import is_lost_peer

CLOSED = RuntimeError(
    "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by "
    "peer [127.0.0.1]:33177. This is typically caused by a remote worker crashing."
)
LAYOUT = {"processes": 8, "micro_batch_tokens": 32768}
FAILURE = ArithmeticError("the loss is nan")


def attempt(directory: Path, update: int, error: BaseException | None = None) -> None:
    attempts = AttemptLog(directory, update=update, layout=LAYOUT, active=True)
    attempts.check()
    try:
        with attempts:
            if error is not None:
                raise error
    except BaseException as caught:
        if caught is not error:
            raise


def killed(directory: Path, update: int) -> None:
    AttemptLog(directory, update=update, layout=LAYOUT, active=True).__enter__()


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
        (3, "started", 3),
        (3, "failed", "ArithmeticError: the loss is nan"),
        (4, "started", 3),
        (4, "lost", str(CLOSED)),
        (5, "started", 5),
        (6, "started", 5),
        (7, "started", 5),
        (7, "finished", None),
    ]


def refusal(directory: Path, update: int) -> str:
    with pytest.raises(NoProgress) as caught:
        AttemptLog(directory, update=update, layout=LAYOUT, active=True).check()
    return str(caught.value)


def test_two_failures_without_progress_stop_for_good(tmp_path: Path) -> None:
    attempt(tmp_path, 4, ValueError("first"))
    attempt(tmp_path, 4, ValueError("second\nwith details"))
    before = (tmp_path / "attempts.jsonl").read_bytes()
    message = (
        "stopped for good: 2 attempts failed that went on from update 4, the last with "
        f"'ValueError: second'; remove {tmp_path}/attempts.jsonl to try again"
    )
    assert refusal(tmp_path, 4) == message
    assert refusal(tmp_path, 4) == message
    assert (tmp_path / "attempts.jsonl").read_bytes() == before
    (tmp_path / "attempts.jsonl").unlink()
    attempt(tmp_path, 4)
    assert events(tmp_path) == [(1, "started", 4), (1, "finished", None)]


def test_what_is_not_its_own_making_neither_counts_nor_forgives(tmp_path: Path) -> None:
    attempt(tmp_path, 4, FAILURE)
    killed(tmp_path, 4)
    attempt(tmp_path, 4, CLOSED)
    for _ in range(9):
        attempt(tmp_path, 4, Stopped("before any update"))
    attempt(tmp_path, 4, UserError("no space"))
    attempt(tmp_path, 4, FAILURE)
    assert refusal(tmp_path, 4).startswith("stopped for good: 2 attempts failed")


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
        "stopped for good: 5 attempts were killed, lost a process or failed that went on from "
        f"update 4, before anything was saved; remove {tmp_path}/attempts.jsonl to try again"
    )


def test_another_layout_is_no_repetition(tmp_path: Path) -> None:
    attempt(tmp_path, 4, FAILURE)
    attempt(tmp_path, 4, FAILURE)
    assert refusal(tmp_path, 4).startswith("stopped for good: 2 attempts failed")
    AttemptLog(
        tmp_path, update=4, layout=LAYOUT | {"micro_batch_tokens": 16384}, active=True
    ).check()


def test_numbers_go_on_where_the_attempts_were_forgotten(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"update": 4, "attempt": 6, "loss": 3.0}\n')
    attempt(tmp_path, 4)
    attempt(tmp_path, 4)
    assert [number for number, _, _ in events(tmp_path)] == [7, 7, 8, 8]


def test_progress_forgives(tmp_path: Path) -> None:
    attempt(tmp_path, 4, FAILURE)
    attempt(tmp_path, 8, FAILURE)
    attempt(tmp_path, 12, FAILURE)
    # back to an earlier checkpoint, because the newer ones were damaged
    attempt(tmp_path, 4, FAILURE)
    attempt(tmp_path, 8)
    assert len(events(tmp_path)) == 10


def test_a_failure_counts_once(tmp_path: Path) -> None:
    told = AttemptLog(tmp_path, update=4, layout=LAYOUT, active=True)
    told.__enter__()
    told.failed("rank 1 on node2 failed: out of memory")
    told.__exit__(ValueError, ValueError("own"), None)
    attempt(tmp_path, 4, FAILURE)  # is not refused yet
    assert refusal(tmp_path, 4).startswith("stopped for good: 2 attempts failed")


def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    attempt(tmp_path, 4, FAILURE)
    with (tmp_path / "attempts.jsonl").open("a") as file:
        file.write('{"attempt": 2, "eve')
    attempt(tmp_path, 4)
    assert [event for _, event, _ in events(tmp_path)] == [
        *("started", "failed", "started", "finished")
    ]


def test_failures_before_the_attempt_are_not_recorded(tmp_path: Path) -> None:
    AttemptLog(tmp_path, update=4, layout=LAYOUT, active=True).failed(
        "rank 1 on node2 failed: reading the tokens"
    )
    assert list(tmp_path.iterdir()) == []


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    others = AttemptLog(tmp_path, update=4, layout=LAYOUT, active=False)
    with pytest.raises(ValueError, match="x"), others:
        raise ValueError("x")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    failing = AttemptLog(tmp_path, update=4, layout=LAYOUT, active=True)
    failing.__enter__()
    monkeypatch.setattr(os, "fsync", full)
    failing.__exit__(ValueError, ValueError("x"), None)
    assert caplog.messages == [
        f"{tmp_path}/attempts.jsonl: No space left on device; not recorded: attempt failed"
    ]


@pytest.mark.parametrize(
    "message",
    [
        str(CLOSED),
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:61091: "
        "Connection reset by peer.",
        "[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 100000ms "
        "for recv operation to complete",
        "Application timeout caused pair closure",
        "NCCL error in: ProcessGroupNCCL.cpp:94, remote process exited or there was a network "
        "error, NCCL version 2.28.9\nncclRemoteError: A call failed possibly due to a network "
        "error or a remote process exiting prematurely.",
        "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)",
    ],
)
def test_lost_peers(message: str) -> None:
    assert is_lost_peer(RuntimeError(message))


def test_what_came_from_a_lost_peer() -> None:
    caused = ValueError("while gathering")
    caused.__cause__ = CLOSED
    assert is_lost_peer(caused)
    during = ValueError("while closing")
    during.__context__ = caused
    assert is_lost_peer(during)
    during.__suppress_context__ = True
    assert not is_lost_peer(during)


@pytest.mark.parametrize(
    "error",
    [
        FAILURE,
        RuntimeError("CUDA out of memory"),
        RuntimeError("NCCL error: unhandled cuda error"),
        BrokenPipeError(32, "Broken pipe"),
        RuntimeError("Timed out waiting for the compiler"),
    ],
)
def test_failures_of_its_own(error: Exception) -> None:
    assert not is_lost_peer(error)
