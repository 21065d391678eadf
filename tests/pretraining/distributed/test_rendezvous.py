"""Real processes that meet, of which some do not come, die or are told to stop."""

import os
import re
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch.distributed import (  # type: ignore[attr-defined]  # not in __all__
    HashStore,
    TCPStore,
)

from esm1b.errors import RunFailure
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.distributed.rendezvous import RendezvousLimits, meet
from esm1b.pretraining.options import Layout
from esm1b.pretraining.start_processes import connect, start_processes
from esm1b.stopping import StopRequest
from tests.pretraining.distributed.forked import HOST, Forked, free_port, wait_for

LIMITS = RendezvousLimits(come=1, stay=1, grace=1, silence=0.2, hang=0.5, turn=0.1)
LONG = replace(LIMITS, come=30)

Join = Callable[[Place, Callable[[], bool]], object]


def ending(join: Join, place: Place, folder: Path) -> None:
    """Join, and write how that ended to `folder`."""
    with StopRequest().from_signals() as stop:
        try:
            ended = str(join(place, stop.is_made))
        except Exception as error:
            ended = f"{type(error).__name__}: {error}"
    (folder / f"ended{place.rank}").write_text(ended)
    if place.rank == 0 and ended == "None":  # the others have yet to read that all are there
        wait_for(*(folder / f"ended{rank}" for rank in range(place.processes)))
    os._exit(0)  # as a thread may hang


def join(
    place: Place, is_stopped: Callable[[], bool], *, limits: RendezvousLimits = LIMITS
) -> None:
    # the store of rank 0 stays until the process ends
    globals()["store"] = meet(place, is_stopped=is_stopped, limits=limits)


def join_and_add(place: Place, is_stopped: Callable[[], bool]) -> float:
    start_processes(place, Layout(device="cpu"), is_stopped=is_stopped, limit_seconds=30)
    total = torch.tensor([float(place.rank + 1)])
    torch.distributed.all_reduce(total)
    torch.distributed.destroy_process_group()
    return total.item()


def join_and_connect(place: Place, is_stopped: Callable[[], bool]) -> None:
    """Come, but in rank 1 connect to nobody."""
    if place.rank == 1:
        join(place, is_stopped, limits=LONG)
        time.sleep(30)
    else:
        start_processes(place, Layout(device="cpu"), is_stopped=is_stopped, limit_seconds=1)


def connect_to_nobody(place: Place, is_stopped: Callable[[], bool]) -> None:
    """Be rank 0 of two processes that have met, of which the other is gone."""
    connect(place, Layout(device="cpu"), HashStore(), is_stopped=is_stopped, limit_seconds=30)


class Run(Forked):
    """Some of the processes of a run."""

    def __init__(self, folder: Path, processes: int, join: Join = join, **others: Any) -> None:
        super().__init__(folder, processes, partial(ending, join), **others)

    def ended(self, *ranks: int) -> list[str]:
        """Return how joining ended in some processes, or in all."""
        self.statuses(*ranks)
        return [(self.folder / f"ended{rank}").read_text() for rank in ranks or self.members]


def test_two_join_at_once(tmp_path: Path) -> None:
    with Run(tmp_path, 2, partial(join, limits=replace(LONG, silence=10))) as run:
        run.release(1)  # the store is not there yet
        time.sleep(0.2)
        run.release(0)
        assert run.ended() == ["None", "None"]
        assert [run.said(0), run.said(1)] == ["", ""]


def test_who_joined_can_compute_together(tmp_path: Path) -> None:
    with Run(tmp_path, 2, join_and_add) as run:
        run.release()
        assert run.ended() == ["3.0", "3.0"]


def test_who_did_not_come_is_named(tmp_path: Path) -> None:
    port = free_port()
    with Run(tmp_path, 8, ranks=(0, 2, 6, 7), port=port) as run:
        started = time.monotonic()
        run.release(2)  # is the first whose patience ends
        time.sleep(0.2)
        run.release(0, 6, 7)
        where = f"127.0.0.1:{port}"
        failure = f"RunFailure: ranks 1, 3-5 of 8 processes did not come to {where} within 1 s"
        assert run.ended() == [failure] * 4
        assert time.monotonic() - started < LIMITS.come + 4
        assert run.said(0) == f"waiting for 4 of 8 processes at {where}: ranks 1, 3-5\n"
        assert not any("waited" in run.said(rank) for rank in (2, 6, 7))


def test_one_that_dies_while_it_waits_is_named(tmp_path: Path) -> None:
    port = free_port()
    with Run(tmp_path, 3, partial(join, limits=replace(LONG, stay=1)), port=port) as run:
        run.release(0, 1)
        run.wait_until_said(0, f"waiting for 1 of 3 processes at 127.0.0.1:{port}: rank 2")
        run.signal(signal.SIGKILL, 1)
        run.release(2)
        failure = f"rank 1 of 3 processes came to 127.0.0.1:{port} and went away again"
        assert run.ended(0, 2) == [f"RunFailure: {failure}"] * 2


def test_a_signal_to_one_stops_all_that_are_there(tmp_path: Path) -> None:
    with Run(tmp_path, 5, partial(join, limits=LONG), ranks=range(4)) as run:
        run.release()
        run.wait_until_said(0, "waiting for 1 of 5")
        started = time.monotonic()
        run.signal(signal.SIGTERM, 1)
        stopped = "Stopped: asked to while the processes were joining; nothing was trained"
        assert run.ended() == [stopped] * 4
        assert [run.said(rank) for rank in (1, 2, 3)] == [""] * 3
        assert time.monotonic() - started < 4


@pytest.mark.parametrize(
    ("number", "ends"),
    [
        (signal.SIGKILL, r"it went away \(.*\)"),
        (signal.SIGSTOP, "what listens there does not answer"),
    ],
)
def test_rank_0_dies_or_is_stopped(tmp_path: Path, number: signal.Signals, ends: str) -> None:
    port = free_port()
    with Run(tmp_path, 3, ranks=(0, 1), port=port) as run:
        run.release()
        run.wait_until_said(0, "waiting for 1 of 3")
        run.signal(number, 0)
        message = rf"rank 1 on {HOST} waited \d s for rank 0 at 127\.0\.0\.1:{port}: {ends}"
        (ended,) = run.ended(1)
        assert re.fullmatch(f"RunFailure: {message}", ended)
        assert re.search(f"^{message}$", run.said(1), re.MULTILINE)


def test_another_program_has_the_port(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        with Run(tmp_path, 2, port=port) as run:
            run.release()
            first, second = run.ended()
            assert first == (
                f"RunFailure: rank 0 on {HOST} cannot listen on port {port}: address already in "
                "use; MASTER_PORT in the environment chooses another"
            )
            assert "what listens there does not answer" in second


@pytest.mark.parametrize(
    ("address", "obstacle"),
    # reserved names never resolve (RFC 2606)
    [("127.0.0.1", "Connection refused"), ("n1.invalid", ".*[Nn]ame.*")],
)
def test_nobody_is_at_the_address(address: str, obstacle: str) -> None:
    place = Place(rank=1, local_rank=1, processes=2, address=address, port=free_port())
    with pytest.raises(RunFailure, match=f"{address}:{place.port}: {obstacle}$"):
        meet(place, is_stopped=lambda: False, limits=replace(LIMITS, come=0.3))


def test_one_that_connects_to_nobody(tmp_path: Path) -> None:
    with Run(tmp_path, 2, join_and_connect) as run:
        run.release()
        failure = f"all 2 processes came, but rank 0 on {HOST} could not connect to "
        (ended,) = run.ended(0)
        assert ended.startswith(f"RunFailure: {failure}")
        assert ended.endswith(
            "; GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME choose the network interface"
        )
        assert run.said(0).startswith(failure)


def test_a_signal_while_they_connect(tmp_path: Path) -> None:
    with Run(tmp_path, 2, connect_to_nobody, ranks=(0,)) as run:
        run.release()
        time.sleep(0.3)
        run.signal(signal.SIGUSR1, 0)
        assert run.ended() == [
            "Stopped: asked to while the processes were connecting; nothing was trained"
        ]


def test_what_an_earlier_attempt_left_with_the_agent_of_torchrun_counts_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = TCPStore(
        "localhost", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5)
    )
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    places = [Place(rank=rank, local_rank=rank, processes=2, port=agent.port) for rank in (0, 1)]
    attempt = partial(meet, is_stopped=lambda: False, limits=LONG)
    short = replace(LIMITS, come=0.3)
    with pytest.raises(RunFailure, match="rank 1 of 2 processes did not come"):
        attempt(places[0], limits=short)
    with pytest.raises(RunFailure, match="waited 0 s for rank 0"):
        attempt(places[1], limits=short)  # it came too late
    for _ in range(2):
        with ThreadPoolExecutor() as executor:
            late = executor.submit(attempt, places[1])
            time.sleep(0.3)  # so that it finds what is left of the attempt before
            first = attempt(places[0])
            first.set("said", "once")
            assert late.result().get("said") == b"once"
