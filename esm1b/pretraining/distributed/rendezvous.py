"""The processes of a run come together, and those that do not are named.

torch's own rendezvous waits in silence, hears no signal and names nobody. Here the processes meet
first, in torch's store, with rank 0 calling the roll; only then do they connect to each other.
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
from esm1b.pretraining.distributed.collectives import one_line
from esm1b.pretraining.distributed.place import Place

T = TypeVar("T")

_log = logging.getLogger(__name__)

LIMIT_SECONDS: Final = 120.0
"""A run whose processes are not all there ends so long after the first one's arrival.

Nodes that read torch and DeepSpeed from a busy file system start up to a minute apart.
"""

# When all have come, everyone answers at once, unless it has died while it waited. Rank 0 decides;
# the others give it more time than it takes.
_SECOND_CALL_SECONDS: Final = 15.0
_PATIENCE_SECONDS: Final = 5.0
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
    # The main thread stays free for signals.
    while not wait([outcome], timeout=0.1).done:
        if meeting.is_hanging():
            raise meeting.end(is_rank_0_lost=True)
    return outcome.result()


class _Meeting:
    """The processes on their way to the store, as one of them sees it.

    Rank 0 calls the roll twice, under a name of its own for this meeting, and is the only one to
    say who is missing. Another process counts once rank 0 repeated the token that it came with: the
    store of torchrun's agent keeps what processes wrote that are gone.
    """

    def __init__(self, place: Place, is_stopped: Callable[[], bool], limit_seconds: float) -> None:
        self._place = place
        self._where = f"{place.address}:{place.port}"
        self._is_stopped = is_stopped
        self._token = secrets.token_hex(8)
        self._began = time.monotonic()
        self._deadline = self._began + limit_seconds
        self._limit = limit_seconds
        # who is not there, says rank 0; None before it said anything
        self._missing: list[int] | None = None
        self._fault = f"did not come to {self._where} within {limit_seconds:g} s"
        self._obstacle = "it does not answer"
        self._may_stop = True
        self._asked_at = math.inf
        self._has_told = False

    def hold(self) -> Store:
        """Return the store when all are there."""
        reached = PrefixStore("esm1b", self._reach())
        try:
            return self._call_roll(reached) if self._place.rank == 0 else self._answer(reached)
        except DistError as error:
            self._obstacle = f"it went away ({one_line(error)})"
            raise self.end(is_rank_0_lost=True) from error

    def is_hanging(self) -> bool:
        """Return whether the time is up, or somebody asked to stop, and nothing comes of it."""
        now = time.monotonic()
        if not self._is_asked_to_stop():
            self._asked_at = math.inf
        elif self._asked_at == math.inf:
            self._asked_at = now
        return now > min(self._deadline, self._asked_at) + _HANGING_SECONDS

    def end(self, *, is_stopped: bool | None = None, is_rank_0_lost: bool = False) -> Exception:
        """Return with what this process ends, and say it where rank 0 may not be there to.

        Args:
            is_stopped: whether a process was asked to stop; None for what this one knows.
            is_rank_0_lost: whether it does not answer.
        """
        place = self._place
        if self._is_asked_to_stop() if is_stopped is None else is_stopped:
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

    def _call_roll(self, reached: Store) -> Store:
        """Wait for all others, as rank 0, and tell them when they are there."""
        store = PrefixStore(self._token, reached)
        reached.set("meeting", self._token)
        self._await_all(store, "come")
        self._begin_second_call()
        self._await_all(store, "stay")
        return store

    def _await_all(self, store: Store, call: str) -> None:
        tokens: dict[int, str] = {}
        self._missing = list(range(1, self._place.processes))
        while True:
            for rank in self._missing:
                if store.check([f"{call} {rank}"]):
                    tokens[rank] = store.get(f"{call} {rank}").decode()
            self._missing = [rank for rank in self._missing if rank not in tokens]
            try:
                self._look_for_an_end(store)
                word = {"tokens": list(tokens.items()), "missing": self._missing}
                store.set(call, json.dumps(word))
                if not self._missing:
                    return
                self._take_turn(store)
            except (RunFailure, Stopped):
                time.sleep(2 * _LONGEST_TURN_SECONDS)  # the store goes with it: all are to read
                raise

    def _answer(self, reached: Store) -> Store:
        """Say, as another than rank 0, that this process is there, until all are."""
        store: Store | None = None
        while not self._is_known(store):
            if reached.check(["meeting"]):
                store = PrefixStore(reached.get("meeting").decode(), reached)
                store.set(f"come {self._place.rank}", self._token)
            self._take_turn(store)
        assert store is not None
        self._await_word(store, "come")
        self._begin_second_call(patience_seconds=_PATIENCE_SECONDS)
        store.set(f"stay {self._place.rank}", self._token)
        self._await_word(store, "stay")
        return store

    def _is_known(self, store: Store | None) -> bool:
        if store is None or not store.check(["come"]):
            return False
        tokens = json.loads(store.get("come"))["tokens"]
        return [self._place.rank, self._token] in tokens

    def _await_word(self, store: Store, call: str) -> None:
        while True:
            self._look_for_an_end(store)
            if store.check([call]):
                self._missing = json.loads(store.get(call))["missing"]
                if not self._missing:
                    return
            self._take_turn(store)

    def _begin_second_call(self, *, patience_seconds: float = 0) -> None:
        """Be about to train: a request to stop waits for the first update, as all are there."""
        self._may_stop = False
        self._missing = None
        self._began = time.monotonic()
        self._deadline = self._began + min(self._limit, _SECOND_CALL_SECONDS) + patience_seconds
        self._fault = f"came to {self._where} and went away again"

    def _look_for_an_end(self, store: Store) -> None:
        if store.check(["end"]):
            raise self.end(is_stopped=store.get("end") == b"stopped")

    def _take_turn(self, store: Store | None = None) -> None:
        """Wait a little: the longer, the longer it has taken.

        Raises:
            RunFailure: it has taken too long; `store` tells the others.
            Stopped: asked to; `store` tells the others.
        """
        now = time.monotonic()
        is_stopped = self._is_asked_to_stop()
        if is_stopped or now > self._deadline:
            if store is not None:
                store.set("end", "stopped" if is_stopped else "late")
            raise self.end(is_stopped=is_stopped)
        waited = now - self._began
        if waited > _SILENT_SECONDS and not self._has_told:
            self._tell()
        time.sleep(min(0.01 + waited / 10, _LONGEST_TURN_SECONDS))

    def _is_asked_to_stop(self) -> bool:
        return self._may_stop and self._is_stopped()

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
