"""Attempts at a run, as they end, in an attempt log."""

from pathlib import Path

from esm1b.pretraining.attempt_log import AttemptLog

__all__ = ["CLOSED", "FAILURE", "LAYOUT", "NODES", "attempt", "killed"]

CLOSED = RuntimeError(
    "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by "
    "peer [127.0.0.1]:33177. This is typically caused by a remote worker crashing."
)
LAYOUT = {"processes": 8, "micro_batch_tokens": 32768}
NODES = ["n1", "n2"]
FAILURE = ArithmeticError("the loss is nan")


def attempt(directory: Path, update: int, error: BaseException | None = None) -> None:
    """Make an attempt that ends with `error`, if it is not refused."""
    log = AttemptLog(directory, rank=0)
    number = log.next_attempt(update=update, layout=LAYOUT)
    try:
        with log.attempt(number, update=update, updates=9, layout=LAYOUT, nodes=NODES):
            if error is not None:
                raise error
    except BaseException as caught:
        if caught is not error:
            raise
    log.settle()


def killed(directory: Path, update: int) -> None:
    """Make an attempt that never ends."""
    log = AttemptLog(directory, rank=0)
    number = log.next_attempt(update=update, layout=LAYOUT)
    log.attempt(number, update=update, updates=9, layout=LAYOUT, nodes=NODES).__enter__()
