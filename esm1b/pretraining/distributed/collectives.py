"""Python values between processes: all learn what each of them found, and all fail together."""

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import torch.distributed

from esm1b.errors import RunFailure, SharedUserError, UserError, one_line
from esm1b.pretraining.distributed.place import Place

T = TypeVar("T")

# The messages of gloo, nccl and the store of torch 2.13 when the other side of a connection is gone
# or does not answer. Their exceptions have no class in common but RuntimeError, so an error counts
# when its message has both the name of a library and one of the phrases.
_LIBRARIES: Final = ("gloo/transport", "pair closure", "nccl", "NCCL", "DistNetwork", "DistStore")
_LOST_PEER: Final = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection was likely closed",
    "Broken pipe",
    "Timed out waiting",
    "timed out",
    "Application timeout caused pair closure",
    "ncclRemoteError",
    "ncclSystemError",
    "NCCL communicator was aborted",
    "Watchdog caught collective operation timeout",
    "remote process exited",
)


class ActionError(RunFailure):
    """An action that all processes ran failed in at least one.

    Every process raises it with the same one-line message. A collective that fails because a
    process is gone raises the error of torch instead; see `is_lost_peer`.
    """


def gathered(value: T, place: Place) -> list[T]:
    """Return every process's `value`, by rank. Collective."""
    if place.processes == 1:
        return [value]
    values: list[Any] = [None] * place.processes
    torch.distributed.all_gather_object(values, value)
    return values


def everywhere(action: Callable[[], T], place: Place) -> list[T]:
    """Run `action` in every process and return all results, by rank. Collective.

    Raises:
        UserError: at least one process raised one; every process raises the first of them.
        ActionError: the action failed otherwise; every process says in which process and why.
    """
    caught: Exception | None = None
    mine: T | SharedUserError | ActionError
    try:
        mine = action()
    except Exception as error:  # whatever it is, the others must not wait forever
        caught = error
        kind = SharedUserError if isinstance(error, UserError) else ActionError
        mine = kind(one_line(error))
    outcomes: list[Any] = gathered(mine, place)
    for outcome in outcomes:
        if isinstance(outcome, SharedUserError):
            raise outcome from caught
    for rank, outcome in enumerate(outcomes):
        if isinstance(outcome, ActionError):
            where = f"process {rank + 1} of {place.processes}: " if place.processes > 1 else ""
            raise ActionError(f"{where}{outcome}") from caught
    return outcomes


def on_first(action: Callable[[], T], place: Place) -> T:
    """Run `action` in the first process and return its result in every one. Collective.

    Raises:
        UserError: the action raised it; every process raises it.
        ActionError: the action failed otherwise; every process says why.
    """
    return cast(T, everywhere(lambda: action() if place.rank == 0 else None, place)[0])


def is_lost_peer(error: BaseException) -> bool:
    """Return whether `error`, or an error behind it, says that another process is gone or stuck."""
    text = f"{type(error).__name__}: {error}"
    if (
        isinstance(error, RuntimeError)
        and any(library in text for library in _LIBRARIES)
        and any(phrase in text for phrase in _LOST_PEER)
    ):
        return True
    origin = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return origin is not None and is_lost_peer(origin)
