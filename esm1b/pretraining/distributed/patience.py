"""How long a process waits at the rendezvous, and how it ends when the others do not come."""

import logging
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from torch.distributed import Store  # type: ignore[attr-defined]  # not in __all__

from esm1b.errors import RunFailure, Stopped
from esm1b.pretraining.distributed.place import Place

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RendezvousLimits:
    """Seconds that the parts of a rendezvous may take."""

    come: float = 120.0  # nodes that read torch from a busy file system start a minute apart
    stay: float = 15.0  # to answer the second call; at most `come`
    grace: float = 5.0  # added to `stay` for the others, as rank 0 decides
    silence: float = 10.0  # until a process logs what it waits for
    hang: float = 3.0  # added for a call of torch's; it hangs where rank 0 is stopped
    turn: float = 0.5  # between two looks at the store, at most


LIMITS: Final = RendezvousLimits()


class Patience:
    """The waiting of one process.

    Attributes:
        call: present call of the roll, "come" or "stay".
        missing: ranks that rank 0 misses; None before it has said anything.
        obstacle: reason why this process does not reach rank 0, in words.
        deadline: end of the present call, in seconds of the monotonic clock.
    """

    def __init__(
        self, place: Place, is_stopped: Callable[[], bool], limits: RendezvousLimits
    ) -> None:
        self._place = place
        self._me = f"rank {place.rank} on {platform.node()}"
        self._where = f"{place.address}:{place.port}"
        self._is_stopped = is_stopped
        self._limits = limits
        self._has_told = False
        self.obstacle = "it does not answer"
        fault = f"did not come to {self._where} within {limits.come:g} s"
        self._begin_call("come", limits.come, fault)

    def _begin_call(self, call: str, seconds: float, fault: str) -> None:
        self.call = call
        self._began = time.monotonic()
        self.deadline = self._began + seconds
        self._fault = fault
        self.missing: list[int] | None = None

    def begin_second_call(self) -> None:
        """Wait again from now on."""
        limits = self._limits
        seconds = min(limits.come, limits.stay) + (limits.grace if self._place.rank > 0 else 0)
        self._begin_call("stay", seconds, f"came to {self._where} and went away again")

    def is_asked_to_stop(self) -> bool:
        """Return whether to stop here: in the second call a request waits for the first update."""
        return self.call == "come" and self._is_stopped()

    def read_end(self, store: Store) -> None:
        """Look whether another process has ended the meeting.

        Raises:
            RunFailure: the time is up in another process.
            Stopped: another process was asked to stop.
        """
        if store.check(["end"]):
            raise self._end(is_stopped=store.get("end") == b"stopped")

    def take_turn(self, store: Store | None = None) -> None:
        """Wait a little, longer and longer.

        Args:
            store: store of the meeting, to tell the others why this process ends.

        Raises:
            RunFailure: the time is up.
            Stopped: this process was asked to stop.
        """
        now = time.monotonic()
        is_stopped = self.is_asked_to_stop()
        if is_stopped or now > self.deadline:
            if store is not None:
                store.set("end", "stopped" if is_stopped else "late")
            raise self._end(is_stopped=is_stopped)
        waited = now - self._began
        if waited > self._limits.silence and not self._has_told:
            self._has_told = True
            self._tell()
        time.sleep(min(0.01 + waited / 10, self._limits.turn))

    def _tell(self) -> None:
        if self.missing is None:
            _log.warning("%s waits for rank 0 at %s: %s", self._me, self._where, self.obstacle)
        elif self._place.rank == 0:
            count = f"{len(self.missing)} of {self._place.processes} processes"
            _log.warning("waiting for %s at %s: %s", count, self._where, _ranks(self.missing))

    def without_rank_0(self) -> Exception:
        """Return the error of a process that rank 0 does not answer, and log it in its place."""
        if self.is_asked_to_stop():
            return self._end(is_stopped=True)
        waited = f"{self._me} waited {time.monotonic() - self._began:.0f} s"
        message = f"{waited} for rank 0 at {self._where}: {self.obstacle}"
        if self._place.rank > 0:
            _log.error(message)
        return RunFailure(message)

    def _end(self, *, is_stopped: bool) -> Exception:
        """Return the error that all processes end with."""
        if is_stopped:
            return Stopped("asked to while the processes were joining; nothing was trained")
        if self.missing is None:
            return self.without_rank_0()
        missing = f"{_ranks(self.missing)} of {self._place.processes} processes"
        return RunFailure(f"{missing} {self._fault}")


def _ranks(ranks: Sequence[int]) -> str:
    """Return "ranks 1, 3-5" for [1, 3, 4, 5]."""
    pieces = []
    # in a run of successive ranks, rank minus index stays the same
    for _, run in groupby(enumerate(ranks), lambda pair: pair[1] - pair[0]):
        members = [rank for _, rank in run]
        pieces.append(f"{members[0]}-{members[-1]}" if len(members) > 1 else f"{members[0]}")
    return ("ranks " if len(ranks) > 1 else "rank ") + ", ".join(pieces)
