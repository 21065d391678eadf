"""Which process of a run died, is stopped or hangs, judged from the heartbeats of all."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

Position = tuple[int, int]
"""An update, and a part of it, at which a process has arrived; later ones compare as greater."""

START: Final[Position] = (-1, 0)

State = Literal["running", "left", "failed", "lost", "died"]
"""`left`: ended as it should. `failed`: ended with its own error. `lost`: got an error that
another process caused. `died`: ended without a message."""

# When one process has lost another, all that wait get the same error soon; a process that has not
# got it within this share of the limit is the one that they lost.
_SHARE_TO_NOTICE: Final = 0.1

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


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """What a process reports: where its main thread is, its state, and why it failed."""

    position: Position = START
    state: State = "running"
    reason: str = ""


@dataclass(kw_only=True)
class Observed:
    """A process that another one watches.

    Attributes:
        silent: seconds since the last heartbeat.
        behind: seconds since another process arrived at a position that this one has not reached.
        lost: seconds since the process reported that it lost another one.
    """

    rank: int
    host: str
    last: Heartbeat = Heartbeat()
    silent: float = 0.0
    behind: float = 0.0
    lost: float = 0.0

    def heard(self, heartbeat: Heartbeat) -> None:
        """Record a heartbeat."""
        if heartbeat.position != self.last.position:
            self.behind = 0.0
        self.last = heartbeat
        self.silent = 0.0

    def closed(self) -> None:
        """Record that the connection to the process is closed."""
        if self.last.state in ("running", "lost"):
            self.last = replace(self.last, state="died")


def age(processes: Sequence[Observed], seconds: float) -> None:
    """Let time pass without a heartbeat."""
    furthest = max(process.last.position for process in processes)
    for process in processes:
        process.silent += seconds
        process.lost = process.lost + seconds if process.last.state == "lost" else 0.0
        process.behind = process.behind + seconds if process.last.position < furthest else 0.0


def faults(
    processes: Sequence[Observed], *, limit_seconds: float, is_lost: bool = False
) -> dict[int, str]:
    """Return, by rank, what is wrong with processes for which the others need not wait any more.

    `limit_seconds` is the longest silence of a process, and the longest wait for it; `is_lost` says
    that the watching process, not one of `processes`, lost another.
    """
    furthest, _ = max(process.last.position for process in processes)
    is_lost = is_lost or any(process.last.state == "lost" for process in processes)
    longest_lost = max(process.lost for process in processes)
    found = {}
    for process in processes:
        is_silent = process.silent > limit_seconds
        match process.last.state:
            case "died":
                fault = "died"
            case "failed" if is_lost or is_silent:
                fault = f"failed: {process.last.reason}"
            case "running" | "lost" if is_silent:
                fault = f"gave no sign of life for {process.silent:.0f} s"
            case "running" if process.behind > limit_seconds:
                waited = f"{process.behind:.0f} s"
                fault = f"hangs: others have waited for it at update {furthest} for {waited}"
            case "running" if longest_lost > limit_seconds * _SHARE_TO_NOTICE:
                fault = "hangs: others have given up waiting for it"
            case _:
                continue
        found[process.rank] = f"rank {process.rank} on {process.host} {fault}"
    return found


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
