"""Ends a run whose processes would otherwise wait for one that died, was stopped or hangs.

Every process has a thread that gives a sign of life to rank 0 every few seconds, over a connection
of its own: collectives cannot tell a peer that is gone from one that is late, and nccl's wait for
good. Rank 0 judges and tells the others, so that all name the same culprit; they watch rank 0.
"""

import contextlib
import faulthandler
import logging
import os
import platform
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import torch.distributed

from esm1b.errors import RunFailure, SharedUserError, Stopped
from esm1b.pretraining.distributed.line_connection import LineConnection, listen
from esm1b.pretraining.distributed.liveness import Finding, Observed, Sign, State, age, findings
from esm1b.pretraining.distributed.lost_peer import is_lost_peer
from esm1b.pretraining.distributed.place import Place

_log = logging.getLogger(__name__)

_SIGNS_PER_LIMIT: Final = 20
# If more intervals than this passed since the last turn, this process was stopped itself, perhaps
# with all others, as schedulers suspend jobs; that time is not the others' silence.
_LONGEST_TURN: Final = 3
_FAREWELL_SECONDS: Final = 5.0
_LONGEST_REASON: Final = 1000


class Watchdog:
    """Watches the processes of a run from a thread of its own; a context manager.

    The run ends when a process died, gave no sign of life for the limit (it is stopped, or its host
    is gone), or has not arrived where another has waited for the limit (it hangs): every remaining
    process logs the culprit's rank and host, writes the stacks of its threads to stderr and exits
    with status 1. A process that failed with an error of its own ends the run as soon as another
    one notices, or after the limit. A process may compute for as long as nobody waits for it.

    A process that leaves with an error which another one caused waits for the verdict, at most a
    little longer than the limit.

    Where a launcher started this process, the death of its parent is noticed too. A single process
    without a launcher has no thread.

    Collective: all processes enter, with the default process group there.

    Args:
        place: of this process.
        limit_seconds: see above.
        on_parent_death: called once, in the thread, when the parent died.
        on_failure: called in rank 0, in the thread, before the run ends because another process
            failed with an error of its own; the argument says which and how.
    """

    def __init__(
        self,
        place: Place,
        *,
        limit_seconds: float = 90,
        on_parent_death: Callable[[], None],
        on_failure: Callable[[str], object] | None = None,
    ) -> None:
        self._place = place
        self._limit = limit_seconds
        self._interval = limit_seconds / _SIGNS_PER_LIMIT
        self._on_parent_death = on_parent_death
        self._on_failure = on_failure
        self._parent: int | None = os.getppid()
        self._token = secrets.token_hex(16)
        self._sign = Sign()
        self._told: State = "running"
        self._watched: list[Observed] = []
        self._watched_through: dict[LineConnection, Observed] = {}
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        if self._place.processes > 1:
            self._meet()
        if self._place.processes > 1 or self._place.launcher != "none":
            self._waker, wakened = socket.socketpair()
            self._selector.register(wakened, selectors.EVENT_READ, lambda: wakened.recv(64))
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._thread.is_alive():
            return
        if error is None or isinstance(error, Stopped | SharedUserError | RunFailure):
            # all processes end alike, each with its own word of it
            self._tell("left")
        elif is_lost_peer(error):
            self._tell("lost")
            self._thread.join(self._limit + 2 * self._interval)
            self._tell("left")
        else:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self._tell("failed", reason[:_LONGEST_REASON])
        self._thread.join(2 * _FAREWELL_SECONDS)

    def arrived(self, update: int, part: int = 0) -> None:
        """Say that the main thread has come to `update`, where it may have to wait for the others.

        Args:
            update: never less than before.
            part: of the update, such as a micro-batch, if others may have to be waited for there.
        """
        self._sign = Sign(position=(update, part))

    def _tell(self, state: State, reason: str = "") -> None:
        self._sign = Sign(position=self._sign.position, state=state, reason=reason)
        self._waker.send(b"!")

    def _meet(self) -> None:
        """Agree with the other processes on where rank 0 listens, and connect."""
        is_first = self._place.rank == 0
        listener = listen(self._place.address) if is_first else None
        port = listener.getsockname()[1] if listener else 0
        everyone: list[Any] = [None] * self._place.processes
        torch.distributed.all_gather_object(everyone, (platform.node(), port, self._token))
        _, port, self._token = everyone[0]
        ranks = range(self._place.processes) if is_first else range(1)
        self._watched = [Observed(rank=rank, host=everyone[rank][0]) for rank in ranks]
        if listener is not None:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, lambda: self._accept(listener))
        else:
            where = (self._place.address, port)
            try:
                connected = socket.create_connection(where, timeout=self._limit)
            except OSError as error:
                raise ConnectionError(
                    f"rank {self._place.rank} on {platform.node()} cannot reach rank 0 at "
                    f"{self._place.address}, port {port}: {error}"
                ) from error
            connection = self._add(connected)
            self._watched_through[connection] = self._watched[0]
            connection.send({"token": self._token, "rank": self._place.rank})

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # whoever knocked has gone again
            self._add(listener.accept()[0])

    def _add(self, connected: socket.socket) -> LineConnection:
        connection = LineConnection(connected)
        self._selector.register(connected, selectors.EVENT_READ, lambda: self._receive(connection))
        return connection

    def _remove(self, connection: LineConnection) -> None:
        self._watched_through.pop(connection, None)
        self._selector.unregister(connection.socket)
        connection.socket.close()

    def _receive(self, connection: LineConnection) -> None:
        for message in connection.receive():
            process = self._watched_through.get(connection)
            if process is None:
                if message.get("token") != self._token:
                    connection.is_closed = True
                    break
                self._watched_through[connection] = self._watched[int(message["rank"])]
            elif "verdict" in message:
                self._end(message["verdict"])
            else:
                update, part = message.pop("position")
                process.heard(Sign(position=(update, part), **message))
        process = self._watched_through.get(connection)
        if process is not None and process.sign.state in ("left", "failed"):
            self._remove(connection)
        elif connection.is_closed:
            if process is not None:
                process.closed()
            self._remove(connection)

    def _watch(self) -> None:
        """Do the work of the thread."""
        last = time.monotonic()
        while self._told not in ("left", "failed"):
            self._listen(last + self._interval, lambda: self._sign.state != self._told)
            now = time.monotonic()
            seconds, last = min(now - last, _LONGEST_TURN * self._interval), now
            self._look_after_parent()
            sign = self._sign
            self._send(asdict(sign))
            self._told = sign.state
            if not self._watched or sign.state in ("left", "failed"):
                continue
            age(self._watched, seconds)
            if self._place.rank == 0:
                self._watched[0].heard(sign)
            is_lost = sign.state == "lost"
            found = findings(self._watched, limit_seconds=self._limit, is_lost=is_lost)
            if found:
                self._end("; ".join(finding.text for finding in found), found)
        self._say_farewell()

    def _listen(self, until: float, is_over: Callable[[], bool]) -> None:
        """Receive what comes."""
        while (left := until - time.monotonic()) > 0 and not is_over():
            for key, _ in self._selector.select(left):
                key.data()

    def _send(self, message: dict[str, Any]) -> None:
        for connection in self._watched_through:
            connection.send(message)

    def _say_farewell(self) -> None:
        """Let the others read what was sent last before the connections are closed.

        What one end closes with something unread in it may be lost to the other.
        """
        for connection in self._watched_through:
            connection.finish()
        until = time.monotonic() + _FAREWELL_SECONDS
        self._listen(until, lambda: not self._watched_through)

    def _look_after_parent(self) -> None:
        is_launched = self._place.launcher != "none"
        if is_launched and self._parent is not None and os.getppid() != self._parent:
            self._parent = None
            _log.warning("the launcher of rank %d died", self._place.rank)
            self._on_parent_death()

    def _end(self, verdict: str, found: Sequence[Finding] = ()) -> NoReturn:
        """End this process, and in rank 0 the others, because of `verdict`."""
        # Whatever logging waits for: the main thread may hang with its lock, or nobody reads.
        last_resort = threading.Timer(2 * _FAREWELL_SECONDS, os._exit, (1,))
        last_resort.daemon = True
        last_resort.start()
        if self._place.rank == 0:
            self._send({"verdict": verdict})
            failures = [finding.text for finding in found if finding.failed]
            if failures and self._on_failure is not None:
                self._on_failure("; ".join(failures))
        _log.error("%s; rank %d on %s ends", verdict, self._place.rank, platform.node())
        faulthandler.dump_traceback(2)
        for connection, process in list(self._watched_through.items()):
            if any(process.rank == finding.rank for finding in found):
                self._remove(connection)  # it may never read
        self._say_farewell()
        os._exit(1)
