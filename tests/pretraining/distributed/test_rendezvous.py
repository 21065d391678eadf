"""Real processes that join each other, of which some do not come, die or are told to stop.

They are forked from a server that has imported torch, so that each starts at once.
"""

import logging
import multiprocessing
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
import torch.distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in __all__

from esm1b.errors import RunFailure
from esm1b.pretraining.distributed import rendezvous as meeting
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.distributed.rendezvous import meet
from esm1b.pretraining.options import Layout
from esm1b.pretraining.start_processes import start_processes
from esm1b.stopping import StopRequest

HOST = os.uname().nodename
LIMIT = 3.0
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch.distributed", "esm1b.pretraining.start_processes"])

Join = Callable[[Place, Callable[[], bool]], object]


def join(place: Place, is_stopped: Callable[[], bool], *, limit_seconds: float = LIMIT) -> None:
    store = meet(place, is_stopped=is_stopped, limit_seconds=limit_seconds)
    time.sleep(1)  # others have yet to read that all are there
    del store


def join_and_add(place: Place, is_stopped: Callable[[], bool]) -> float:
    start_processes(place, Layout(device="cpu"), is_stopped=is_stopped, limit_seconds=30)
    total = torch.tensor([float(place.rank + 1)])
    torch.distributed.all_reduce(total)
    torch.distributed.destroy_process_group()
    return total.item()


def join_and_connect(place: Place, is_stopped: Callable[[], bool]) -> None:
    """Come, but in rank 1 connect to nobody."""
    if place.rank == 1:
        join(place, is_stopped, limit_seconds=30)
    else:
        start_processes(place, Layout(device="cpu"), is_stopped=is_stopped, limit_seconds=2)


def member(place: Place, action: Join, folder: Path) -> None:
    """Be one process; what it says, and how joining ends, goes to `folder`."""
    os.dup2(os.open(folder / f"said{place.rank}", os.O_WRONLY | os.O_CREAT), 2)
    logging.basicConfig(format="%(message)s", force=True)
    pytest.MonkeyPatch().setattr(meeting, "_SILENT_SECONDS", 1.0)
    with StopRequest().from_signals() as stop:
        try:
            ended = str(action(place, stop.is_made))
        except Exception as error:
            ended = f"{type(error).__name__}: {error}"
    (folder / f"ended{place.rank}").write_text(ended)
    os._exit(0)  # as a thread may hang


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


class Run:
    """Some of the processes of a run; a context manager."""

    def __init__(self, folder: Path, processes: int, port: int, action: Join = join) -> None:
        self.folder = folder
        self.action = action
        self.place = partial(Place, processes=processes, port=port)
        self.members: dict[int, ForkServerProcess] = {}

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.members.values():
            process.kill()
            process.join()

    def start(self, *ranks: int) -> None:
        for rank in ranks:
            arguments = (self.place(rank=rank, local_rank=rank), self.action, self.folder)
            self.members[rank] = CONTEXT.Process(target=member, args=arguments)
            self.members[rank].start()

    def signal(self, rank: int, number: signal.Signals) -> None:
        process = self.members[rank].pid
        assert process is not None
        os.kill(process, number)

    def ended(self, rank: int) -> str:
        self.members[rank].join(60)
        return (self.folder / f"ended{rank}").read_text()

    def said(self, rank: int) -> str:
        return (self.folder / f"said{rank}").read_text()

    def wait_until_said(self, rank: int, what: str) -> None:
        deadline = time.monotonic() + 30
        while not ((self.folder / f"said{rank}").exists() and what in self.said(rank)):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_two_join_at_once(tmp_path: Path) -> None:
    with Run(tmp_path, 2, free_port()) as run:
        run.start(1)  # the store is not there yet
        time.sleep(0.2)
        run.start(0)
        assert [run.ended(0), run.ended(1)] == ["None", "None"]
        assert [run.said(0), run.said(1)] == ["", ""]


def test_who_joined_can_compute_together(tmp_path: Path) -> None:
    with Run(tmp_path, 2, free_port(), join_and_add) as run:
        run.start(0, 1)
        assert [run.ended(0), run.ended(1)] == ["3.0", "3.0"]


def test_who_did_not_come_is_named(tmp_path: Path) -> None:
    port = free_port()
    with Run(tmp_path, 8, port) as run:
        started = time.monotonic()
        run.start(2)  # is the first whose patience ends
        time.sleep(0.5)
        run.start(0, 6, 7)
        where = f"127.0.0.1:{port}"
        failure = f"RunFailure: ranks 1, 3-5 of 8 processes did not come to {where} within 3 s"
        assert [run.ended(rank) for rank in (0, 2, 6, 7)] == [failure] * 4
        assert time.monotonic() - started < LIMIT + 4
        assert run.said(0) == f"waiting for 4 of 8 processes at {where}: ranks 1, 3-5\n"
        assert not any("waited" in run.said(rank) for rank in (2, 6, 7))


def test_one_that_dies_while_it_waits_is_named(tmp_path: Path) -> None:
    port = free_port()
    with Run(tmp_path, 3, port) as run:
        run.start(0, 1)
        run.wait_until_said(0, f"waiting for 1 of 3 processes at 127.0.0.1:{port}: rank 2")
        run.signal(1, signal.SIGKILL)
        run.start(2)
        failure = f"rank 1 of 3 processes came to 127.0.0.1:{port} and went away again"
        assert [run.ended(0), run.ended(2)] == [f"RunFailure: {failure}"] * 2


def test_a_signal_to_one_stops_all_that_are_there(tmp_path: Path) -> None:
    with Run(tmp_path, 5, free_port(), partial(join, limit_seconds=60)) as run:
        run.start(0, 1, 2, 3)
        run.wait_until_said(0, "waiting for 1 of 5")
        started = time.monotonic()
        run.signal(1, signal.SIGTERM)
        stopped = "Stopped: asked to while the processes were joining; nothing was trained"
        assert [run.ended(rank) for rank in range(4)] == [stopped] * 4
        assert [run.said(rank) for rank in (1, 2, 3)] == [""] * 3
        assert time.monotonic() - started < 4


@pytest.mark.parametrize(
    ("number", "seconds", "ends"),
    [
        (signal.SIGKILL, r"\d", r"it went away \(.*\)"),
        (signal.SIGSTOP, r"\d", "what listens there does not answer"),
    ],
)
def test_rank_0_dies_or_is_stopped(
    tmp_path: Path, number: signal.Signals, seconds: str, ends: str
) -> None:
    port = free_port()
    with Run(tmp_path, 3, port) as run:
        run.start(0, 1)
        run.wait_until_said(0, "waiting for 1 of 3")
        run.signal(0, number)
        message = rf"rank 1 on {HOST} waited {seconds} s for rank 0 at 127\.0\.0\.1:{port}: {ends}"
        assert re.fullmatch(f"RunFailure: {message}", run.ended(1))
        assert re.search(f"^{message}$", run.said(1), re.MULTILINE)


def test_another_program_has_the_port(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        with Run(tmp_path, 2, port) as run:
            run.start(0, 1)
            assert run.ended(0) == (
                f"RunFailure: rank 0 on {HOST} cannot listen on port {port}: address already in "
                "use; MASTER_PORT in the environment chooses another"
            )
            assert "what listens there does not answer" in run.ended(1)


@pytest.mark.parametrize(
    ("address", "obstacle"),
    # reserved names never resolve (RFC 2606)
    [("127.0.0.1", "Connection refused"), ("n1.invalid", ".*[Nn]ame.*")],
)
def test_nobody_is_at_the_address(address: str, obstacle: str) -> None:
    place = Place(rank=1, local_rank=1, processes=2, address=address, port=free_port())
    with pytest.raises(RunFailure, match=f"{address}:{place.port}: {obstacle}$"):
        meet(place, is_stopped=lambda: False, limit_seconds=0.3)


def test_one_that_connects_to_nobody(tmp_path: Path) -> None:
    with Run(tmp_path, 2, free_port(), join_and_connect) as run:
        run.start(0, 1)
        failure = f"all 2 processes came, but rank 0 on {HOST} could not connect to "
        assert run.ended(0).startswith(f"RunFailure: {failure}")
        assert run.said(0).startswith(failure)


def test_what_an_earlier_attempt_left_with_the_agent_of_torchrun_counts_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = TCPStore(
        "localhost", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5)
    )
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    places = [Place(rank=rank, local_rank=rank, processes=2, port=agent.port) for rank in (0, 1)]
    attempt = partial(meet, is_stopped=lambda: False)
    with pytest.raises(RunFailure, match="rank 1 of 2 processes did not come"):
        attempt(places[0], limit_seconds=0.3)
    with pytest.raises(RunFailure, match="waited 0 s for rank 0"):
        attempt(places[1], limit_seconds=0.3)  # it came too late
    for _ in range(2):
        with ThreadPoolExecutor() as executor:
            late = executor.submit(attempt, places[1])
            time.sleep(0.3)  # so that it finds what is left of the attempt before
            first = attempt(places[0])
            first.set("said", "once")
            assert late.result().get("said") == b"once"
