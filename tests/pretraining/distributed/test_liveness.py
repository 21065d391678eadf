import pytest

from esm1b.pretraining.distributed.liveness import (
    Heartbeat,
    Observed,
    Position,
    State,
    age,
    faults,
    is_lost_peer,
)
from tests.pretraining.attempts import CLOSED, FAILURE


def three() -> list[Observed]:
    return [Observed(rank=rank, host=f"node{rank // 2}") for rank in range(3)]


def turn(
    processes: list[Observed],
    positions: list[Position | None],
    states: tuple[State, ...] = ("running", "running", "running"),
    seconds: float = 1.0,
) -> list[str]:
    """Let a second pass, hear those that have a position, and return what is found."""
    age(processes, seconds)
    for process, position, state in zip(processes, positions, states, strict=True):
        if position is not None:
            process.heard(Heartbeat(position=position, state=state, reason="reason"))
    return list(faults(processes, limit_seconds=10).values())


def test_silence() -> None:
    processes = three()
    for _ in range(10):
        assert turn(processes, [(0, 0), (0, 0), None]) == []
    assert turn(processes, [(0, 0), (0, 0), None]) == [
        "rank 2 on node1 gave no sign of life for 11 s"
    ]
    assert turn(processes, [(0, 0), (0, 0), (0, 0)]) == []


def test_nobody_waits_for_one_that_computes() -> None:
    processes = three()
    for _ in range(1000):
        assert turn(processes, [(4, 0)] * 3) == []


def test_one_that_others_wait_for() -> None:
    processes = three()
    assert turn(processes, [(4, 0), (4, 0), (4, 0)]) == []
    assert turn(processes, [(5, 0), (4, 0), (5, 0)]) == []
    for _ in range(10):
        assert turn(processes, [(5, 0), (4, 0), (5, 0)]) == []
    # the others run ahead a little; it is the time since the first of them waited
    assert turn(processes, [(5, 0), (4, 0), (6, 0)]) == [
        "rank 1 on node0 hangs: others have waited for it at update 6 for 11 s"
    ]


def test_one_that_is_late_but_arrives() -> None:
    processes = three()
    for update in range(1, 5):
        for _ in range(9):
            assert turn(processes, [(update, 0), (update - 1, 0), (update, 0)]) == []
        assert turn(processes, [(update, 0)] * 3) == []


def test_parts_of_an_update() -> None:
    processes = three()
    for _ in range(11):
        turn(processes, [(5, 1), (5, 0), (5, 1)])
    assert turn(processes, [(5, 1), (5, 0), (5, 1)]) == [
        "rank 1 on node0 hangs: others have waited for it at update 5 for 11 s"
    ]


def test_closed_connections() -> None:
    processes = three()
    processes[2].closed()
    assert turn(processes, [(0, 0), (0, 0), None]) == ["rank 2 on node1 died"]
    processes = three()
    turn(processes, [(0, 0)] * 3, ("running", "running", "left"))
    processes[2].closed()
    for _ in range(100):
        assert turn(processes, [(0, 0), (0, 0), None]) == []


def test_failures_are_named_when_another_process_notices() -> None:
    processes = three()
    assert turn(processes, [(5, 0)] * 3, ("running", "failed", "running")) == []
    processes[1].closed()
    assert turn(processes, [(5, 0), None, (5, 0)]) == []
    assert turn(processes, [(5, 0), None, (5, 0)], ("running", "running", "lost")) == [
        "rank 1 on node0 failed: reason"
    ]
    assert list(faults(processes, limit_seconds=10)) == [1]


def test_failures_are_named_after_the_limit() -> None:
    processes = three()
    turn(processes, [(5, 0)] * 3, ("running", "failed", "running"))
    for _ in range(10):
        assert turn(processes, [(5, 0), None, (5, 0)]) == []
    assert turn(processes, [(5, 0), None, (5, 0)]) == ["rank 1 on node0 failed: reason"]


def test_one_that_does_not_notice_what_the_others_have() -> None:
    processes = three()
    lost: tuple[State, ...] = ("lost", "running", "lost")
    assert turn(processes, [(5, 0)] * 3, lost) == []
    # a tenth of the limit
    assert turn(processes, [(5, 0)] * 3, lost) == []
    assert turn(processes, [(5, 0)] * 3, lost, seconds=0.1) == [
        "rank 1 on node0 hangs: others have given up waiting for it"
    ]


def test_a_process_that_watches_only_another() -> None:
    first = three()[:1]
    first[0].heard(Heartbeat(state="failed", reason="reason"))
    assert faults(first, limit_seconds=10) == {}
    found = faults(first, limit_seconds=10, is_lost=True)
    assert found == {0: "rank 0 on node0 failed: reason"}


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
