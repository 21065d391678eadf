"""The processes of a run come together, and those that do not are named.

torch's own rendezvous waits in silence, hears no signal and names nobody. Here the processes meet
first, in torch's store, with rank 0 calling the roll; only then do they connect to each other.
"""

import json
import logging
import os
import platform
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from datetime import timedelta
from itertools import groupby
from typing import Final, TypeVar

from torch.distributed import (  # type: ignore[attr-defined]  # not all are in __all__
    DistError,
    PrefixStore,
    Store,
    TCPStore,
)

from esm1b.errors import RunFailure, Stopped
from esm1b.pretraining.processes.collectives import one_line
from esm1b.pretraining.processes.launch import Place

__all__ = ["LIMIT_SECONDS", "in_thread", "meet"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

LIMIT_SECONDS: Final = 120.0
"""A run whose processes are not all there ends so long after the first one's arrival.

Nodes that read torch and DeepSpeed from a busy file system start up to a minute apart.
"""

# When all have come, everyone answers at once, unless it has died while it waited.
_SECOND_CALL_SECONDS: Final = 15.0
_SILENT_SECONDS: Final = 10.0
_LONGEST_TURN_SECONDS: Final = 0.5
# A call of torch's may hang where rank 0 is stopped, or the port is another program's.
_HANGING_SECONDS: Final = 3.0


def meet(
    place: Place, *, is_stopped: Callable[[], bool], limit_seconds: float = LIMIT_SECONDS
) -> Store:
    """Return the store that all processes share, once all of them are there. Collective.

    Rank 0 has it, or torchrun's agent; where a process asked to stop or has waited for too long,
    all others that are there end too.

    Raises:
        RunFailure: some processes did not come, which are named, or rank 0 does not answer.
        Stopped: one process was asked to stop.
    """
    meeting = _Meeting(place, is_stopped, limit_seconds)
    outcome = in_thread(meeting.hold)
    hanging_since: float | None = None
    # The main thread stays free for signals.
    while not wait([outcome], timeout=0.1).done:
        now = time.monotonic()
        if hanging_since is None and (is_stopped() or now > meeting.deadline):
            hanging_since = now
        if hanging_since is not None and now > hanging_since + _HANGING_SECONDS:
            raise meeting.end(is_stopped=is_stopped(), is_rank_0_lost=True)
    return outcome.result()


class _Meeting:
    """The processes on their way to the store, as one of them sees it.

    Attributes:
        deadline: of `time.monotonic`, for all to be there.
    """

    def __init__(self, place: Place, is_stopped: Callable[[], bool], limit_seconds: float) -> None:
        self._place = place
        self._where = f"{place.address}:{place.port}"
        self._is_stopped = is_stopped
        self._limit = limit_seconds
        self._began = time.monotonic()
        self.deadline = self._began + limit_seconds
        # who is not there, says rank 0; None before it said anything
        self._missing: list[int] | None = None
        self._fault = f"did not come to {self._where} within {limit_seconds:g} s"
        self._obstacle = "it does not answer"
        self._has_told = False

    def hold(self) -> Store:
        """Return the store when all are there."""
        reached = self._reach()
        # torchrun's agents keep their store when they start the processes again
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"attempt {attempt} of {self._place.processes}", reached)
        try:
            self._call_roll(PrefixStore("come", store))
            self._fault = f"came to {self._where} and went away again"
            self._began = time.monotonic()
            self.deadline = self._began + min(self._limit, _SECOND_CALL_SECONDS)
            self._call_roll(PrefixStore("stay", store))
        except DistError as error:
            self._obstacle = f"it went away ({one_line(error)})"
            raise self.end(is_stopped=self._is_stopped(), is_rank_0_lost=True) from error
        return store

    def end(self, *, is_stopped: bool, is_rank_0_lost: bool = False) -> Exception:
        """Return with what this process ends, and say it where rank 0 may not be there to."""
        place = self._place
        if is_stopped:
            return Stopped("asked to while the processes were joining; nothing was trained")
        if self._missing is not None and not is_rank_0_lost:
            return RunFailure(
                f"{_ranks(self._missing)} of {place.processes} processes {self._fault}"
            )
        message = (
            f"rank {place.rank} on {platform.node()} waited "
            f"{time.monotonic() - self._began:.0f} s for rank 0 at {self._where}: {self._obstacle}"
        )
        if place.rank > 0:
            _log.error(message)
        return RunFailure(message)

    def _reach(self) -> Store:
        """Return the store of rank 0 or of torchrun's agent."""
        place = self._place
        timeout = timedelta(seconds=self._limit)
        if place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            try:
                return TCPStore(
                    "localhost",
                    place.port,
                    is_master=True,
                    timeout=timeout,
                    wait_for_workers=False,
                    multi_tenant=True,
                )
            except DistError as error:
                reason = one_line(error).rpartition("message: ")[2]
                raise RunFailure(
                    f"rank 0 on {platform.node()} cannot listen on port {place.port}: {reason}; "
                    "MASTER_PORT in the environment chooses another"
                ) from error
        while True:
            try:
                # TCPStore would do, but complains of each attempt at length
                socket.create_connection((place.address, place.port), timeout=5).close()
                self._obstacle = "what listens there does not answer"
                return TCPStore(
                    place.address,
                    place.port,
                    is_master=False,
                    timeout=timeout,
                    wait_for_workers=False,
                )
            except OSError as error:
                self._obstacle = error.strerror or one_line(error)
            except DistError as error:
                self._obstacle = one_line(error)
            self._take_turn()

    def _call_roll(self, store: Store) -> None:
        """Return when all have said that they are there: rank 0 looks, and tells the others."""
        is_first = self._place.rank == 0
        self._missing = list(range(self._place.processes)) if is_first else None
        store.set(str(self._place.rank), "")
        while True:
            if self._missing is not None and is_first:
                self._missing = [rank for rank in self._missing if not store.check([str(rank)])]
                store.set("missing", json.dumps(self._missing))
            elif store.check(["missing"]):
                self._missing = json.loads(store.get("missing"))
            if self._missing == []:
                return
            if store.check(["end"]):
                raise self.end(is_stopped=store.get("end") == b"stopped")
            try:
                self._take_turn()
            except (RunFailure, Stopped) as error:
                store.set("end", "stopped" if isinstance(error, Stopped) else "late")
                if is_first:
                    time.sleep(2 * _LONGEST_TURN_SECONDS)  # with it goes the store: all are to read
                raise

    def _take_turn(self) -> None:
        """Wait a little: the longer, the longer it has taken.

        Raises:
            RunFailure: it has taken too long.
            Stopped: asked to.
        """
        now = time.monotonic()
        if self._is_stopped() or now > self.deadline:
            raise self.end(is_stopped=self._is_stopped())
        waited = now - self._began
        if waited > _SILENT_SECONDS and not self._has_told:
            self._tell()
        time.sleep(min(0.01 + waited / 10, _LONGEST_TURN_SECONDS))

    def _tell(self) -> None:
        self._has_told = True
        place = self._place
        if self._missing is None:
            _log.warning(
                "rank %d on %s waits for rank 0 at %s: %s",
                place.rank,
                platform.node(),
                self._where,
                self._obstacle,
            )
        elif place.rank == 0:
            _log.warning(
                "waiting for %d of %d processes at %s: %s",
                len(self._missing),
                place.processes,
                self._where,
                _ranks(self._missing),
            )


def in_thread(action: Callable[[], T]) -> Future[T]:
    """Do `action` in a thread that nothing waits for at the end, as it may hang."""
    outcome: Future[T] = Future()

    def act() -> None:
        try:
            outcome.set_result(action())
        except BaseException as error:  # whatever it is, the main thread raises it
            outcome.set_exception(error)

    threading.Thread(target=act, name="joining", daemon=True).start()
    return outcome


def _ranks(ranks: Sequence[int]) -> str:
    """Return "ranks 1, 3-5" for [1, 3, 4, 5]."""
    pieces = []
    for _, run in groupby(enumerate(ranks), lambda pair: pair[1] - pair[0]):
        members = [rank for _, rank in run]
        pieces.append(f"{members[0]}-{members[-1]}" if len(members) > 1 else f"{members[0]}")
    return ("ranks " if len(ranks) > 1 else "rank ") + ", ".join(pieces)
