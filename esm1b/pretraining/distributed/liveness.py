"""Which process of a run died, stopped or hangs, judged from the signs of life of all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Position = tuple[int, int]
"""An update, and a part of it, that a process has arrived at; later ones compare as greater."""

START: Position = (-1, 0)

State = Literal["running", "left", "failed", "lost", "died"]
"""`left`: ended as it should. `failed`: ended with an error of its own. `lost`: got an error that
another process caused. `died`: ended without a word."""

# When one process has lost another, so have all that wait; whoever has not noticed within this
# share of the limit is the one that they lost.
_SHARE_TO_NOTICE: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class Sign:
    """A sign of life.

    Attributes:
        position: where the main thread is.
        state: how the process is.
        reason: of a failure.
    """

    position: Position = START
    state: State = "running"
    reason: str = ""


@dataclass(kw_only=True)
class Observed:
    """What is known of a process.

    Attributes:
        rank: of the process.
        host: where it runs.
        sign: its last one.
        silent: seconds since then.
        behind: seconds since another process arrived where this one has not.
        lost: seconds since it said that it lost another process.
    """

    rank: int
    host: str
    sign: Sign = Sign()
    silent: float = 0.0
    behind: float = 0.0
    lost: float = 0.0

    def heard(self, sign: Sign) -> None:
        """Take in a sign of life."""
        if sign.position != self.sign.position:
            self.behind = 0.0
        self.sign = sign
        self.silent = 0.0

    def closed(self) -> None:
        """Take in that the connection to the process is closed."""
        if self.sign.state in ("running", "lost"):
            self.sign = Sign(position=self.sign.position, state="died")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is wrong with a process.

    Attributes:
        rank: of the process.
        text: names rank and host.
        failed: whether the process told of an error of its own.
    """

    rank: int
    text: str
    failed: bool = False


def age(processes: Sequence[Observed], seconds: float) -> None:
    """Let time pass without a sign of life."""
    furthest = max(process.sign.position for process in processes)
    for process in processes:
        process.silent += seconds
        process.lost = process.lost + seconds if process.sign.state == "lost" else 0.0
        process.behind = process.behind + seconds if process.sign.position < furthest else 0.0


def findings(
    processes: Sequence[Observed], *, limit_seconds: float, is_lost: bool = False
) -> list[Finding]:
    """Return what is wrong with each of the processes that the others need not wait for any more.

    Args:
        processes: those that are watched.
        limit_seconds: how long a process may be silent, or be waited for.
        is_lost: whether the watching process, where it is none of these, lost another one.
    """
    furthest = max(process.sign.position for process in processes)
    is_lost = is_lost or any(process.sign.state == "lost" for process in processes)
    longest_lost = max(process.lost for process in processes)
    found = []
    for process in processes:
        sign = process.sign
        is_silent = process.silent > limit_seconds
        trouble = None
        if sign.state == "died":
            trouble = "died"
        elif sign.state == "failed" and (is_lost or is_silent):
            trouble = f"failed: {sign.reason}"
        elif sign.state in ("running", "lost") and is_silent:
            trouble = f"gave no sign of life for {process.silent:.0f} s"
        elif sign.state == "running" and process.behind > limit_seconds:
            where = f"update {furthest[0]}"
            trouble = f"hangs: others have waited for it at {where} for {process.behind:.0f} s"
        elif sign.state == "running" and longest_lost > limit_seconds * _SHARE_TO_NOTICE:
            trouble = "hangs: others have given up waiting for it"
        if trouble is not None:
            text = f"rank {process.rank} on {process.host} {trouble}"
            found.append(Finding(rank=process.rank, text=text, failed=sign.state == "failed"))
    return found
