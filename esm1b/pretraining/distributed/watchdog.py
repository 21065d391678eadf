"""Ends a run whose processes would otherwise wait for one that died, is stopped or hangs.

Collectives cannot tell a peer that is gone from one that is late, and nccl's wait forever. So every
process has a thread and a connection to rank 0 for it. Messages are lines of JSON:

    rank r                                       rank 0
    {token, rank}, once                    --->
    {position, state, reason}, a heartbeat <-->  {position, state, reason}
                                           <---  {verdict}, if it finds a process at fault

Rank 0 judges all processes, so that all name the same culprit; the others judge rank 0 alone.
"""

import asyncio
import faulthandler
import json
import logging
import os
import platform
import secrets
import socket
import threading
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, Self

import torch
import torch.distributed

from esm1b.errors import RunFailure, SharedUserError, Stopped
from esm1b.pretraining.distributed.collectives import gathered
from esm1b.pretraining.distributed.liveness import (
    Heartbeat,
    Observed,
    State,
    age,
    faults,
    is_lost_peer,
)
from esm1b.pretraining.distributed.place import Place

_log = logging.getLogger(__name__)

Verdict = Literal["failed", "lost"]

TRACES: Final = "TORCH_FR_DUMP_TEMP_FILE"
"""Variable with the beginning of the names of nccl's records; the rank follows."""

HANG_SECONDS: Final = 90.0
"""Longest silence of a process, and longest wait for it, by default."""

_HEARTBEATS_PER_LIMIT: Final = 20
# If more intervals than this passed since the last turn, this process was stopped itself, perhaps
# with all others, as schedulers suspend jobs; that time is not the others' silence.
_LONGEST_TURN: Final = 3
_TICK_SECONDS: Final = 0.05
_FAREWELL_SECONDS: Final = 5.0
_LONGEST_REASON: Final = 1000
_LONGEST_LINE: Final = 1 << 16


class Watchdog:
    """Watches the processes of a run from a thread.

    The run ends when a process died, sent no heartbeat for the limit (it is stopped, or its host is
    gone), or has not arrived where another has waited for the limit (it hangs): every remaining
    process logs the culprit's rank and host, writes the stacks of its threads to stderr and exits
    with status 1. A process that failed with its own error ends the run as soon as another one
    notices, or after the limit. A process may compute for as long as nobody waits for it.

    A process that leaves with an error which another one caused waits for the verdict, at most a
    little longer than the limit.

    Where a launcher started this process, the death of its parent is noticed too. A single process
    without a launcher has no thread.

    Args:
        limit_seconds: longest silence of a process, and longest wait for it.
        on_parent_death: function to call once, in the thread, when the parent died.
        on_verdict: function to call, in the thread, before the run ends because of others: "failed"
            if one failed with its own error, else "lost"; which and how, in words; their hosts by
            rank. Rank 0 calls it, or all others where rank 0 is the one.
    """

    def __init__(
        self,
        place: Place,
        *,
        limit_seconds: float = HANG_SECONDS,
        on_parent_death: Callable[[], None],
        on_verdict: Callable[[Verdict, str, Mapping[int, str]], object] = lambda *verdict: None,
    ) -> None:
        self._place = place
        self._limit = limit_seconds
        self._interval = limit_seconds / _HEARTBEATS_PER_LIMIT
        self._on_parent_death = on_parent_death
        self._on_verdict = on_verdict
        self._parent: int | None = None if place.launcher == "none" else os.getppid()
        self._mine = Heartbeat()
        self._told: State = "running"
        self._watched: list[Observed] = []
        self._links: dict[StreamWriter, Observed] = {}
        self._verdict: str | None = None
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._watch()), name="watchdog", daemon=True
        )

    @contextmanager
    def watching(self) -> Iterator[Self]:
        """Watch during a block. Collective; needs the default process group."""
        if self._place.processes > 1:
            self._connect()
        if self._place.processes > 1 or self._parent is not None:
            self._thread.start()
        try:
            yield self
        except BaseException as error:
            self._leave(error)
            raise
        self._leave(None)

    def arrived(self, update: int, part: int = 0) -> None:
        """Report that the main thread has come to where it may have to wait for the others.

        `update` is never less than before; `part` tells such places within an update apart.
        """
        self._mine = Heartbeat(position=(update, part))

    def _leave(self, error: BaseException | None) -> None:
        if not self._thread.is_alive():
            return
        state: State = "failed"
        if error is None or isinstance(error, Stopped | SharedUserError | RunFailure):
            state = "left"  # all processes end alike, each with its own message
        elif is_lost_peer(error):
            self._mine = replace(self._mine, state="lost")
            self._thread.join(self._limit + 2 * self._interval)  # the verdict ends this process
            state = "left"
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_REASON]
        self._mine = replace(self._mine, state=state, reason=reason if state == "failed" else "")
        self._thread.join(2 * _FAREWELL_SECONDS)

    def _connect(self) -> None:
        """Learn from all processes where they are and from rank 0 where it listens; connect."""
        place = self._place
        listener = listen(place.address) if place.rank == 0 else None
        port = listener.getsockname()[1] if listener else 0
        everyone = gathered((platform.node(), port, secrets.token_hex(16)), place)
        _, port, self._token = everyone[0]
        watched = range(place.processes) if listener else range(1)
        self._watched = [Observed(rank=rank, host=everyone[rank][0]) for rank in watched]
        try:
            self._socket = listener or socket.create_connection(
                (place.address, port), timeout=self._limit
            )
        except OSError as error:
            raise ConnectionError(
                f"rank {place.rank} on {platform.node()} cannot reach rank 0 at {place.address}, "
                f"port {port}: {error}"
            ) from error

    async def _watch(self) -> None:
        """Do the work of the thread."""
        if self._watched:
            await self._open()
        last = time.monotonic()
        while self._told not in ("left", "failed"):
            await _until(
                lambda: self._verdict is not None or self._mine.state != self._told,
                seconds=last + self._interval - time.monotonic(),
            )
            now = time.monotonic()
            seconds, last = min(now - last, _LONGEST_TURN * self._interval), now
            if self._verdict is not None:
                await self._end(self._verdict)
            if self._parent is not None and os.getppid() != self._parent:
                self._parent = None
                _log.warning("the launcher of rank %d died", self._place.rank)
                self._on_parent_death()
            mine = self._mine
            self._send(asdict(mine))
            self._told = mine.state
            if not self._watched or self._told in ("left", "failed"):
                continue
            age(self._watched, seconds)
            if self._place.rank == 0:
                self._watched[0].heard(mine)
            found = faults(self._watched, limit_seconds=self._limit, is_lost=mine.state == "lost")
            if found:
                await self._end("; ".join(found.values()), found)
        await self._say_farewell()

    async def _open(self) -> None:
        if self._place.rank == 0:
            await asyncio.start_server(self._converse, sock=self._socket, limit=_LONGEST_LINE)
            return
        reader, writer = await asyncio.open_connection(sock=self._socket, limit=_LONGEST_LINE)
        self._links[writer] = self._watched[0]
        self._send({"token": self._token, "rank": self._place.rank})
        self._conversation = asyncio.create_task(self._converse(reader, writer))

    async def _converse(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Read the messages of one connection until it ends or holds something else."""
        process = self._links.get(writer)
        with suppress(OSError, ValueError):  # the other end is gone, or no process of this run
            while line := await reader.readline():
                message = json.loads(line)
                if not isinstance(message, dict):
                    break
                if process is None:
                    if message.get("token") != self._token:
                        break
                    process = self._links[writer] = self._watched[int(message["rank"])]
                elif "verdict" in message:
                    self._verdict = message["verdict"]
                else:
                    update, part = message.pop("position")
                    process.heard(Heartbeat(position=(update, part), **message))
                    if process.last.state in ("left", "failed"):
                        break
        if process is not None:
            process.closed()
        self._links.pop(writer, None)
        writer.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        """Send a message to all; drop it where the other end has not read for a while."""
        line = json.dumps(message).encode() + b"\n"
        for writer in self._links:
            if writer.transport.get_write_buffer_size() < _LONGEST_LINE:
                writer.write(line)

    async def _say_farewell(self) -> None:
        """Let the others read the last messages before the connections are closed.

        A connection that one end closes with something unread in it may lose what it sent itself.
        """
        for writer in self._links:
            writer.write_eof()
        await _until(lambda: not self._links, seconds=_FAREWELL_SECONDS)

    async def _end(self, verdict: str, culprits: Mapping[int, str] | None = None) -> NoReturn:
        """End this process, and in rank 0 the others, because of `verdict`."""
        # Logging may never return: the main thread may hang with its lock, or nobody reads stderr.
        last_resort = threading.Timer(2 * _FAREWELL_SECONDS, os._exit, (1,))
        last_resort.daemon = True
        last_resort.start()
        culprits = culprits or {}
        if self._place.rank == 0:
            self._send({"verdict": verdict})
        if culprits:
            failed = [rank for rank in culprits if self._watched[rank].last.state == "failed"]
            named = {rank: culprits[rank] for rank in failed or culprits}
            hosts = {rank: self._watched[rank].host for rank in named}
            self._on_verdict("failed" if failed else "lost", "; ".join(named.values()), hosts)
        _log.error("%s; rank %d on %s ends", verdict, self._place.rank, platform.node())
        faulthandler.dump_traceback(2)
        _write_trace(self._place.rank)
        for writer, process in list(self._links.items()):
            if process.rank in culprits:
                del self._links[writer]  # the culprit may never read
        await self._say_farewell()
        os._exit(1)


async def _until(is_over: Callable[[], bool], *, seconds: float) -> None:
    last = time.monotonic() + seconds
    while not is_over() and (left := last - time.monotonic()) > 0:
        await asyncio.sleep(min(left, _TICK_SECONDS))


def _write_trace(rank: int) -> None:
    """Write nccl's last collectives, which torch would do only after its own, longer time-out."""
    beginning = os.environ.get(TRACES)
    # private, and missing in a torch without CUDA
    dump = getattr(torch._C._distributed_c10d, "_dump_nccl_trace", None)
    if beginning and dump is not None:
        with suppress(Exception):  # the run ends in any case
            Path(f"{beginning}{rank}").write_bytes(dump())


def listen(address: str) -> socket.socket:
    """Return a socket that listens on a free port, for processes that connect to `address`.

    It listens on all interfaces, unless the address is a loopback address.
    """
    if address in ("127.0.0.1", "localhost"):
        return socket.create_server(("127.0.0.1", 0))
    if socket.has_dualstack_ipv6():
        with suppress(OSError):  # the kernel knows IPv6, but no interface has it
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))
