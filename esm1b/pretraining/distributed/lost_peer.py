"""Errors that say that another process went away."""

from typing import Final

# What gloo, nccl and the store of torch 2.13 say when the other side of a connection is gone or
# does not answer. Their exceptions have no class in common but RuntimeError, which tells nothing.
_SPEAKERS: Final = ("gloo/transport", "pair closure", "nccl", "NCCL", "DistNetwork", "DistStore")


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


def is_lost_peer(error: BaseException) -> bool:
    """Return whether `error` says that another process went away or does not answer.

    Looks at what gloo, nccl and torch"s store say, and at the errors that `error` came from.
    """
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, RuntimeError) and (
        any(speaker in text for speaker in _SPEAKERS)
        and any(phrase in text for phrase in _LOST_PEER)
    ):
        return True
    origin = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return origin is not None and is_lost_peer(origin)
