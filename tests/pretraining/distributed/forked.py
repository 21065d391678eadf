"""Real processes, forked from a server that has imported what they need."""

import logging
import multiprocessing
import os
import pickle
import signal
import socket
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch.distributed

from esm1b.pretraining.distributed.place import Place

CONTEXT = multiprocessing.get_context("forkserver")
# the modules of the actions, or each process would import them again
CONTEXT.set_forkserver_preload(
    [
        f"tests.pretraining.distributed.test_{name}"
        for name in ("collectives", "rendezvous", "watchdog")
    ]
)
HOST = os.uname().nodename

Action = Callable[[Place, Path], object]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def wait_for(*paths: Path) -> None:
    """Wait until all of these files are there."""
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def join_gloo(place: Place) -> None:
    os.environ.update(place.environment())
    torch.distributed.init_process_group("gloo")


class Forked:
    """Some processes of a run, which wait until they are released; a context manager.

    Each calls `action` with its place and a folder for files.
    """

    def __init__(
        self,
        folder: Path,
        processes: int,
        action: Action,
        *,
        ranks: Sequence[int] | None = None,
        port: int | None = None,
        launcher: str = "none",
    ) -> None:
        self.folder = folder
        self.members: dict[int, ForkServerProcess] = {}
        port = free_port() if port is None else port
        for rank in range(processes) if ranks is None else ranks:
            place = Place(
                rank=rank, local_rank=rank, processes=processes, port=port, launcher=launcher
            )
            self.members[rank] = CONTEXT.Process(target=_member, args=(place, action, folder))
            self.members[rank].start()
        wait_for(*(folder / f"ready{rank}" for rank in self.members))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.members.values():
            process.kill()
            process.join()

    def release(self, *ranks: int) -> None:
        """Let some processes begin, or all."""
        for rank in ranks or self.members:
            (self.folder / f"released{rank}").touch()

    def signal(self, number: signal.Signals, *ranks: int) -> None:
        """Send a signal to some processes, or to all."""
        for rank in ranks or self.members:
            process = self.members[rank].pid
            assert process is not None
            os.kill(process, number)

    def statuses(self, *ranks: int) -> list[int | None]:
        """Return the exit statuses of some processes, or of all, once they have ended."""
        for rank in ranks or self.members:
            self.members[rank].join(60)
        return [self.members[rank].exitcode for rank in ranks or self.members]

    def returned(self, *ranks: int) -> list[Any]:
        """Return what some processes returned, or all, once they have ended."""
        self.statuses(*ranks)
        files = [self.folder / f"returned{rank}" for rank in ranks or self.members]
        return [pickle.loads(file.read_bytes()) for file in files]

    def said(self, rank: int) -> str:
        """Return what a process has written to stderr."""
        return (self.folder / f"stderr{rank}").read_text()

    def wait_until_said(self, rank: int, what: str) -> None:
        deadline = time.monotonic() + 30
        while what not in self.said(rank):
            assert time.monotonic() < deadline
            time.sleep(0.005)


def _member(place: Place, action: Action, folder: Path) -> None:
    os.dup2(os.open(folder / f"stderr{place.rank}", os.O_WRONLY | os.O_CREAT), 2)
    logging.basicConfig(format="%(message)s", force=True)
    (folder / f"ready{place.rank}").touch()
    wait_for(folder / f"released{place.rank}")
    returned = action(place, folder)
    (folder / f"returned{place.rank}").write_bytes(pickle.dumps(returned))
