"""The processes of a run meet, and those that are missing are named.

torch's own rendezvous waits in silence, ignores signals and names nobody. Here the processes first
meet in torch's store, where rank 0 calls the roll twice; only then do they connect to each other.
What they write to the store, from top to bottom (N/ before a key: under the name of the meeting):

    rank 0                                   rank r = 1, 2, ...
    ------------------------------------     ------------------------------------
    meeting = N, a random name         --->
                                       <---  N/come r = T, a random token
    N/come = {tokens, missing}         --->  until T is among the tokens
       until nobody is missing                  until nobody is missing
                                       <---  N/stay r = T
    N/stay = {tokens, missing}         --->
       until nobody is missing                  until nobody is missing

The agent of torchrun keeps the store from one attempt to the next: N tells the attempts apart, and
T, repeated by rank 0, shows a process that it reads the present attempt. Between the two calls a
process may have waited for minutes; the second one finds those that died meanwhile.

Whoever is asked to stop, or has waited for too long, writes N/end = "stopped" or "late". All that
read it end in the same way, with the ranks that rank 0 named last as missing.
"""

import json
import logging
import math
import os
import platform
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import groupby
from typing import Final, Literal, TypeVar

from torch.distributed import (  # type: ignore[attr-defined]  # not all are in __all__
    DistError,
    PrefixStore,
    Store,
    TCPStore,
)

from esm1b.errors import RunFailure, Stopped, one_line
from esm1b.pretraining.distributed.place import Place

T = TypeVar("T")

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


def meet(
    place: Place, *, is_stopped: Callable[[], bool], limits: RendezvousLimits = LIMITS
) -> Store:
    """Return the store that all processes share, once all of them have come. Collective.

    Rank 0 holds the store, or torchrun's agent. When one process is asked to stop or has waited for
    too long, all others that have come end too.

    Raises:
        RunFailure: some processes did not come, which are named, or rank 0 does not answer.
        Stopped: one process was asked to stop.
    """
    rendezvous = _Rendezvous(place, is_stopped, limits)
    outcome = in_thread(rendezvous.meet)
    asked_at = math.inf
    # The main thread stays free for signals, and ends the wait where a call of torch's hangs.
    while not wait([outcome], timeout=0.1).done:
        now = time.monotonic()
        asked_at = min(asked_at, now) if rendezvous.is_asked_to_stop() else math.inf
        if now > min(rendezvous.deadline, asked_at) + limits.hang:
            raise rendezvous.without_rank_0()
    return outcome.result()


def in_thread(action: Callable[[], T]) -> Future[T]:
    """Run `action` in a thread that nothing waits for at the end, as it may hang."""
    outcome: Future[T] = Future()

    def act() -> None:
        try:
            outcome.set_result(action())
        except BaseException as error:  # whatever it is, `result` raises it
            outcome.set_exception(error)

    threading.Thread(target=act, daemon=True).start()
    return outcome


class _Rendezvous:
    """The part of one process in the rendezvous.

    Attributes:
        deadline: end of the present call, in seconds of the monotonic clock.
    """

    def __init__(
        self, place: Place, is_stopped: Callable[[], bool], limits: RendezvousLimits
    ) -> None:
        self._place = place
        self._is_stopped = is_stopped
        self._limits = limits
        self._me = f"rank {place.rank} on {platform.node()}"
        self._where = f"{place.address}:{place.port}"
        self._token = secrets.token_hex(8)
        self._meeting: Store | None = None
        # ranks that rank 0 misses; None before it has heard this process
        self._missing: list[int] | None = None
        self._obstacle = "it does not answer"
        self._has_warned = False
        self._begin("come", limits.come)

    def _begin(self, call: Literal["come", "stay"], seconds: float) -> None:
        self._call = call
        self._tokens: dict[int, str] = {}
        self._began = time.monotonic()
        self.deadline = self._began + seconds

    def meet(self) -> Store:
        """Return the store of the meeting when all have answered both calls."""
        place, limits = self._place, self._limits
        store = PrefixStore("esm1b", self._reach_store())
        try:
            if place.rank == 0:
                store.set("meeting", self._token)
            self._await_all(store)
            self._begin("stay", min(limits.come, limits.stay) + limits.grace * (place.rank > 0))
            self._missing = [*range(1, place.processes)]
            return self._await_all(store)
        except (RunFailure, Stopped):
            if place.rank == 0:
                time.sleep(2 * limits.turn)  # the store ends with this process: let all read it
            raise
        except DistError as error:
            self._obstacle = f"it went away ({one_line(error)})"
            raise self.without_rank_0() from error

    def _reach_store(self) -> Store:
        """Return the store of rank 0 or of torchrun's agent."""
        place = self._place
        timeout = timedelta(seconds=self._limits.come)
        open_store = partial(TCPStore, port=place.port, timeout=timeout, wait_for_workers=False)
        if place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            try:
                return open_store("localhost", is_master=True, multi_tenant=True)
            except DistError as error:
                reason = one_line(error).rpartition("message: ")[2]
                raise RunFailure(
                    f"{self._me} cannot listen on port {place.port}: {reason}; MASTER_PORT in the "
                    "environment chooses another"
                ) from error
        while True:
            try:
                # TCPStore would do, but complains of each attempt at length
                socket.create_connection((place.address, place.port), timeout=5).close()
                self._obstacle = "what listens there does not answer"
                return open_store(place.address, is_master=False)
            except (OSError, DistError) as error:
                self._obstacle = one_line(error)
            self._take_turn()

    def _await_all(self, store: Store) -> Store:
        """Return the store of the meeting when nobody is missing in the present call."""
        while True:
            # At every turn, for what is found first may be the meeting of an earlier attempt.
            if store.check(["meeting"]):
                self._meeting = PrefixStore(store.get("meeting").decode(), store)
                if self._place.rank == 0:
                    self._call_roll(self._meeting)
                else:
                    self._answer(self._meeting)
                if self._missing == []:
                    return self._meeting
            self._take_turn()

    def _call_roll(self, meeting: Store) -> None:
        """Collect the tokens of those that have answered, and write the list for all to read."""
        others = range(1, self._place.processes)
        for rank in others:
            if rank not in self._tokens and meeting.check([f"{self._call} {rank}"]):
                self._tokens[rank] = meeting.get(f"{self._call} {rank}").decode()
        self._missing = [rank for rank in others if rank not in self._tokens]
        roll = {"tokens": [*self._tokens.items()], "missing": self._missing}
        meeting.set(self._call, json.dumps(roll))

    def _answer(self, meeting: Store) -> None:
        meeting.set(f"{self._call} {self._place.rank}", self._token)
        if meeting.check([self._call]):
            roll = json.loads(meeting.get(self._call))
            if [self._place.rank, self._token] in roll["tokens"]:
                self._missing = roll["missing"]

    def _take_turn(self) -> None:
        """Wait a little, longer and longer; end where this or another process must.

        Raises:
            RunFailure: the time is up.
            Stopped: a process was asked to stop.
        """
        waited = time.monotonic() - self._began
        # A process that rank 0 has not heard may be in the meeting of an earlier attempt.
        if self._meeting and self._missing is not None and self._meeting.check(["end"]):
            raise self._end(self._meeting.get("end").decode())
        if self.is_asked_to_stop() or time.monotonic() > self.deadline:
            end = "stopped" if self.is_asked_to_stop() else "late"
            if self._meeting:
                self._meeting.set("end", end)
            raise self._end(end)
        if waited > self._limits.silence and not self._has_warned:
            self._has_warned = True
            if self._missing is None:
                _log.warning("%s waits for rank 0 at %s: %s", self._me, self._where, self._obstacle)
            elif self._place.rank == 0:
                count = f"{len(self._missing)} of {self._place.processes} processes"
                _log.warning(
                    "waiting for %s at %s: %s", count, self._where, ranks_in_words(self._missing)
                )
        time.sleep(min(0.01 + waited / 10, self._limits.turn))

    def is_asked_to_stop(self) -> bool:
        """Return whether to stop here: in the second call a request waits for the first update."""
        return self._call == "come" and self._is_stopped()

    def without_rank_0(self) -> Exception:
        """Return the error of a process that rank 0 does not answer, and log it in its place."""
        if self.is_asked_to_stop():
            return self._end("stopped")
        waited = f"{self._me} waited {time.monotonic() - self._began:.0f} s"
        message = f"{waited} for rank 0 at {self._where}: {self._obstacle}"
        if self._place.rank > 0:
            _log.error(message)
        return RunFailure(message)

    def _end(self, end: str) -> Exception:
        """Return the error that all processes end with."""
        if end == "stopped":
            return Stopped("asked to while the processes were joining; nothing was trained")
        if self._missing is None:
            return self.without_rank_0()
        fault = f"came to {self._where} and went away again"
        if self._call == "come":
            fault = f"did not come to {self._where} within {self._limits.come:g} s"
        return RunFailure(
            f"{ranks_in_words(self._missing)} of {self._place.processes} processes {fault}"
        )


def ranks_in_words(ranks: Sequence[int]) -> str:
    """Return "ranks 1, 3-5" for [1, 3, 4, 5]."""
    pieces = []
    # in a run of successive ranks, rank minus index stays the same
    for _, run in groupby(enumerate(ranks), lambda pair: pair[1] - pair[0]):
        members = [rank for _, rank in run]
        pieces.append(f"{members[0]}-{members[-1]}" if len(members) > 1 else f"{members[0]}")
    return ("ranks " if len(ranks) > 1 else "rank ") + ", ".join(pieces)
