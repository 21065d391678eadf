import pytest

from esm1b.pretraining.distributed.lost_peer import is_lost_peer
from tests.pretraining.attempts import CLOSED, FAILURE


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
