"""Real processes, of which one dies, stops or hangs.

They are forked from a server that has imported torch, so that each starts at once.
"""

import logging
import multiprocessing
import os
import re
import signal
import socket
import threading
import time
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
import torch.distributed

from esm1b.errors import Stopped
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.distributed.watchdog import Watchdog

LIMIT = 2.0
SLACK = 4.0
PROCESSES = 3
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT_OF_CHILD = multiprocessing.get_context("fork")
CONTEXT.set_forkserver_preload(["torch.distributed", "esm1b.pretraining.distributed.watchdog"])


def misbehave(behaviour: str, update: int) -> None:
    """Do at update 3 what `behaviour` says, before arriving there."""
    if update != 3:
        return
    if behaviour == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if behaviour == "hang":
        time.sleep(60)
    if behaviour == "fail":
        raise ArithmeticError("the loss is\nnan")


def member(place: Place, behaviour: str, group_timeout: float, folder: Path) -> None:
    """Be one process of a run; what it writes to stderr and that it failed goes to `folder`."""
    os.dup2(os.open(folder / f"stderr{place.rank}", os.O_WRONLY | os.O_CREAT), 2)
    logging.basicConfig(format="%(message)s", force=True)
    os.environ.update(place.environment())
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=group_timeout))
    with Watchdog(
        place,
        limit_seconds=LIMIT,
        on_parent_death=lambda: None,
        on_failure=(folder / "failure").write_text,
    ) as watchdog:
        (folder / f"entered{place.rank}").touch()
        for update in range(6):
            if behaviour == "slow":
                time.sleep(0.3)
            if behaviour != "hang within":
                misbehave(behaviour, update)
            if behaviour == "compute" and update == 3:
                time.sleep(2 * LIMIT)
            watchdog.arrived(update)
            if behaviour == "hang within" and update == 3:
                time.sleep(60)
            torch.distributed.all_reduce(torch.ones(1))
            if behaviour == "all stop" and update == 3:
                raise Stopped("asked to")


def wait_for(paths: list[Path]) -> None:
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Processes:
    """The processes of a run, of which `culprit` behaves differently."""

    def __init__(
        self, folder: Path, behaviour: str, culprit: int | None, group_timeout: float = 60
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.folder = folder
        self.culprit = culprit
        self.members: list[ForkServerProcess] = []
        for rank in range(PROCESSES):
            place = Place(
                rank=rank, local_rank=rank, processes=PROCESSES, port=port, launcher="torchrun"
            )
            mine = behaviour if culprit in (rank, None) else ""
            self.members.append(
                CONTEXT.Process(target=member, args=(place, mine, group_timeout, folder))
            )
            self.members[-1].start()

    def end(self) -> list[int | None]:
        """Return the exit statuses of those that behave, once they have ended."""
        others = [rank for rank in range(PROCESSES) if rank != self.culprit]
        try:
            for rank in others:
                self.members[rank].join(60)
            return [self.members[rank].exitcode for rank in others]
        finally:
            for process in self.members:
                process.kill()
                process.join()

    def signal(self, number: signal.Signals) -> None:
        for process in self.members:
            assert process.pid is not None
            os.kill(process.pid, number)

    def said(self, rank: int) -> str:
        return (self.folder / f"stderr{rank}").read_text()


@pytest.mark.parametrize("culprit", [0, 2])
@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        ("die", "died"),
        ("stop", r"gave no sign of life for \d s"),
        ("hang", r"hangs: others have waited for it at update 3 for \d s"),
        ("fail", "failed: ArithmeticError: the loss is nan"),
    ],
)
def test_the_others_end_and_name_it(
    tmp_path: Path, behaviour: str, told: str, culprit: int
) -> None:
    started = time.monotonic()
    processes = Processes(tmp_path, behaviour, culprit)
    assert processes.end() == [1, 1]
    seconds = time.monotonic() - started
    for rank in {0, 1, 2} - {culprit}:
        (line,) = re.findall(r"rank \d on .* ends", processes.said(rank))
        assert re.fullmatch(
            rf"rank {culprit} on {os.uname().nodename} {told}; rank {rank} on .* ends", line
        )
        assert "Thread 0x" in processes.said(rank)  # stacks
        assert "in member" in processes.said(rank)
    assert seconds < LIMIT + SLACK
    assert (tmp_path / "failure").exists() == (behaviour == "fail" and culprit != 0)


def test_one_that_hangs_where_all_have_arrived(tmp_path: Path) -> None:
    processes = Processes(tmp_path, "hang within", 1, group_timeout=3)
    assert processes.end() == [1, 1]
    for rank in (0, 2):
        assert (
            f"rank 1 on {os.uname().nodename} hangs: others have given up waiting for it"
            in processes.said(rank)
        )


def test_a_failure_of_another_is_told(tmp_path: Path) -> None:
    processes = Processes(tmp_path, "fail", 1)
    assert processes.end() == [1, 1]
    assert (tmp_path / "failure").read_text() == (
        f"rank 1 on {os.uname().nodename} failed: ArithmeticError: the loss is nan"
    )


def test_long_computing_that_nobody_waits_for(tmp_path: Path) -> None:
    processes = Processes(tmp_path, "compute", None)
    assert processes.end() == [0, 0, 0]
    assert [processes.said(rank) for rank in range(PROCESSES)] == ["", "", ""]


def test_a_job_that_is_suspended_and_resumed_goes_on(tmp_path: Path) -> None:
    processes = Processes(tmp_path, "slow", None)
    wait_for([tmp_path / f"entered{rank}" for rank in range(PROCESSES)])
    processes.signal(signal.SIGSTOP)
    time.sleep(2 * LIMIT)
    processes.signal(signal.SIGCONT)
    assert processes.end() == [0, 0, 0]
    assert [processes.said(rank) for rank in range(PROCESSES)] == ["", "", ""]


def test_all_stop_in_peace(tmp_path: Path) -> None:
    processes = Processes(tmp_path, "all stop", None)
    assert processes.end() == [1, 1, 1]  # the exception's
    for rank in range(PROCESSES):
        assert processes.said(rank).strip().endswith("esm1b.errors.Stopped: asked to")
        assert "Thread 0x" not in processes.said(rank)


def orphan(folder: Path) -> None:
    """Start a process of its own and wait to be killed."""
    child = CONTEXT_OF_CHILD.Process(target=orphaned, args=(folder,))
    child.start()
    child.join()


def orphaned(folder: Path) -> None:
    died: list[int] = []
    place = Place(launcher="srun")
    with Watchdog(place, limit_seconds=1, on_parent_death=lambda: died.append(1)):
        (folder / "watching").touch()
        time.sleep(2)
    (folder / "noticed").write_text(str(len(died)))
    (folder / "done").touch()


def test_the_parent_dies(tmp_path: Path) -> None:
    launcher = CONTEXT.Process(target=orphan, args=(tmp_path,))
    launcher.start()
    wait_for([tmp_path / "watching"])
    launcher.kill()
    launcher.join()
    wait_for([tmp_path / "done"])
    assert (tmp_path / "noticed").read_text() == "1"


def test_alone_without_a_launcher_there_is_no_thread() -> None:
    before = threading.active_count()
    with Watchdog(Place(), on_parent_death=lambda: None) as watchdog:
        watchdog.arrived(1)
        assert threading.active_count() == before
