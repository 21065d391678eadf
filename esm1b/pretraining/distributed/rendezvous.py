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
import math
import os
import platform
import secrets
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from torch.distributed import (  # type: ignore[attr-defined]  # not all are in __all__
    DistError,
    PrefixStore,
    Store,
    TCPStore,
)

from esm1b.errors import RunFailure, Stopped, one_line
from esm1b.pretraining.distributed.patience import LIMITS, Patience, RendezvousLimits
from esm1b.pretraining.distributed.place import Place

T = TypeVar("T")


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
    patience = Patience(place, is_stopped, limits)
    outcome = in_thread(lambda: _meet(place, patience, limits))
    asked_at = math.inf
    # The main thread stays free for signals, and ends the wait where a call of torch's hangs.
    while not wait([outcome], timeout=0.1).done:
        now = time.monotonic()
        asked_at = min(asked_at, now) if patience.is_asked_to_stop() else math.inf
        if now > min(patience.deadline, asked_at) + limits.hang:
            raise patience.without_rank_0()
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


def _meet(place: Place, patience: Patience, limits: RendezvousLimits) -> Store:
    store = PrefixStore("esm1b", _reach_store(place, patience, limits))
    try:
        return _meet_in(store, place, patience)
    except (RunFailure, Stopped):
        if place.rank == 0:
            time.sleep(2 * limits.turn)  # the store ends with this process: let all read the end
        raise
    except DistError as error:
        patience.obstacle = f"it went away ({one_line(error)})"
        raise patience.without_rank_0() from error


def _reach_store(place: Place, patience: Patience, limits: RendezvousLimits) -> Store:
    """Return the store of rank 0 or of torchrun's agent."""
    timeout = timedelta(seconds=limits.come)
    open_store = partial(TCPStore, port=place.port, timeout=timeout, wait_for_workers=False)
    if place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        try:
            return open_store("localhost", is_master=True, multi_tenant=True)
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
            patience.obstacle = "what listens there does not answer"
            return open_store(place.address, is_master=False)
        except (OSError, DistError) as error:
            patience.obstacle = one_line(error)
        patience.take_turn()


def _meet_in(store: Store, place: Place, patience: Patience) -> Store:
    """Return the store of this meeting when all have come."""
    token = secrets.token_hex(8)
    if place.rank == 0:
        store.set("meeting", token)
        store = PrefixStore(token, store)
    else:
        store = _come(store, place, patience, token)
    _await_all(store, place, patience)
    patience.begin_second_call()
    if place.rank > 0:
        store.set(f"stay {place.rank}", token)
    _await_all(store, place, patience)
    return store


def _come(store: Store, place: Place, patience: Patience, token: str) -> Store:
    """Return the store of this meeting once rank 0 has heard this process."""
    meeting: Store | None = None
    while meeting is None or [place.rank, token] not in _heard(meeting, "come")["tokens"]:
        # At every turn, and without reading its end: the meeting may be that of an earlier attempt.
        if store.check(["meeting"]):
            meeting = PrefixStore(store.get("meeting").decode(), store)
            meeting.set(f"come {place.rank}", token)
        patience.take_turn(meeting)
    return meeting


def _await_all(store: Store, place: Place, patience: Patience) -> None:
    """Wait until nobody is missing in the present call."""
    tokens: dict[int, str] = {}
    while True:
        if place.rank == 0:
            _call_roll(store, place, patience.call, tokens)
        patience.missing = _heard(store, patience.call)["missing"]
        if patience.missing == []:
            return
        patience.read_end(store)
        patience.take_turn(store)


def _call_roll(store: Store, place: Place, call: str, tokens: dict[int, str]) -> None:
    """Add the tokens of those that have answered, and write the list for all to read."""
    others = range(1, place.processes)
    for rank in others:
        if rank not in tokens and store.check([f"{call} {rank}"]):
            tokens[rank] = store.get(f"{call} {rank}").decode()
    missing = [rank for rank in others if rank not in tokens]
    store.set(call, json.dumps({"tokens": list(tokens.items()), "missing": missing}))


def _heard(store: Store, call: str) -> dict[str, Any]:
    """Return the newest list of rank 0 in a call."""
    if not store.check([call]):
        return {"tokens": [], "missing": None}
    heard: dict[str, Any] = json.loads(store.get(call))
    return heard
