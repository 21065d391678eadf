"""Real processes, of which one dies, stops or hangs; and connections that hold something else."""

import asyncio
import json
import multiprocessing
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed

from esm1b.errors import Stopped
from esm1b.pretraining.distributed import watchdog as module
from esm1b.pretraining.distributed.liveness import Heartbeat, Observed, State
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.distributed.watchdog import TRACES, Watchdog, _write_trace, listen
from tests.pretraining.distributed.forked import CONTEXT, HOST, Forked, join_gloo, wait_for

LIMIT = 2.0
SLACK = 4.0
# What others notice at once needs no limit to run out; a busy machine may need a second for it.
AT_ONCE = {"die": 10.0, "fail": 10.0}
PROCESSES = 3


def misbehave(behaviour: str, folder: Path) -> None:
    """Do at update 3 what `behaviour` says, before arriving there."""
    (folder / "misbehaved").touch()
    if behaviour == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if behaviour == "hang":
        time.sleep(60)
    if behaviour == "fail":
        raise ArithmeticError("the loss is\nnan")
    if behaviour == "compute":
        time.sleep(2 * LIMIT)


def note(path: Path, event: str, message: str, hosts: Mapping[int, str]) -> None:
    path.write_text(f"{event}: {message} {dict(hosts)}")


def train(
    behaviour: str, culprit: int | None, group_seconds: float, place: Place, folder: Path
) -> None:
    """Be one process of a run, of which `culprit` behaves differently."""
    limit_seconds = AT_ONCE.get(behaviour, LIMIT)
    if culprit not in (place.rank, None):
        behaviour = ""
    join_gloo(place)
    group = torch.distributed.new_group(timeout=timedelta(seconds=group_seconds))
    with Watchdog(
        place,
        limit_seconds=limit_seconds,
        on_parent_death=lambda: None,
        on_verdict=partial(note, folder / f"verdict{place.rank}"),
    ).watching() as watchdog:
        (folder / f"entered{place.rank}").touch()
        for update in range(6):
            if behaviour == "slow":
                time.sleep(0.2)
            elif behaviour != "hang within" and update == 3:
                misbehave(behaviour, folder)
            watchdog.arrived(update)
            if behaviour == "hang within" and update == 3:
                time.sleep(60)
            torch.distributed.all_reduce(torch.ones(1), group=group)
            if behaviour == "all stop" and update == 3:
                raise Stopped("asked to")


def run(folder: Path, behaviour: str, culprit: int | None, *, group_seconds: float = 60) -> Forked:
    action = partial(train, behaviour, culprit, group_seconds)
    processes = Forked(folder, PROCESSES, action, launcher="torchrun")
    processes.release()
    return processes


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
    others = {0, 1, 2} - {culprit}
    with run(tmp_path, behaviour, culprit) as processes:
        assert processes.statuses(*others) == [1, 1]
        seconds = time.time() - (tmp_path / "misbehaved").stat().st_mtime
        for rank in others:
            (line,) = re.findall(r"rank \d on .* ends", processes.said(rank))
            assert re.fullmatch(rf"rank {culprit} on {HOST} {told}; rank {rank} on .* ends", line)
            assert "Thread 0x" in processes.said(rank)  # stacks
            assert "in train" in processes.said(rank)
        noted = next(tmp_path.glob("verdict*")).read_text()
        event = "failed" if behaviour == "fail" else "lost"
        assert re.fullmatch(
            rf"{event}: rank {culprit} on {HOST} {told} {{{culprit}: '{HOST}'}}", noted
        )
    assert seconds < LIMIT + SLACK


def test_one_that_hangs_where_all_have_arrived(tmp_path: Path) -> None:
    with run(tmp_path, "hang within", 1, group_seconds=1.5) as processes:
        assert processes.statuses(0, 2) == [1, 1]
        for rank in (0, 2):
            assert f"rank 1 on {HOST} hangs: others have given up waiting for it" in processes.said(
                rank
            )


def test_long_computing_that_nobody_waits_for(tmp_path: Path) -> None:
    with run(tmp_path, "compute", None) as processes:
        assert processes.statuses() == [0, 0, 0]
        assert [processes.said(rank) for rank in range(PROCESSES)] == ["", "", ""]


def test_a_job_that_is_suspended_and_resumed_goes_on(tmp_path: Path) -> None:
    with run(tmp_path, "slow", None) as processes:
        wait_for(*(tmp_path / f"entered{rank}" for rank in range(PROCESSES)))
        processes.signal(signal.SIGSTOP)
        time.sleep(2 * LIMIT)
        processes.signal(signal.SIGCONT)
        assert processes.statuses() == [0, 0, 0]
        assert [processes.said(rank) for rank in range(PROCESSES)] == ["", "", ""]


def test_all_stop_in_peace(tmp_path: Path) -> None:
    with run(tmp_path, "all stop", None) as processes:
        assert processes.statuses() == [1, 1, 1]  # the exception's
        for rank in range(PROCESSES):
            assert processes.said(rank).strip().endswith("esm1b.errors.Stopped: asked to")
            assert "Thread 0x" not in processes.said(rank)


def orphan(folder: Path) -> None:
    """Start a process of its own and wait to be killed."""
    child = multiprocessing.get_context("fork").Process(target=orphaned, args=(folder,))
    child.start()
    child.join()


def orphaned(folder: Path) -> None:
    died: list[int] = []
    place = Place(launcher="srun")
    with Watchdog(place, limit_seconds=1, on_parent_death=lambda: died.append(1)).watching():
        (folder / "watching").touch()
        deadline = time.monotonic() + 10
        while not died and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
    (folder / "noticed").write_text(str(len(died)))
    (folder / "done").touch()


def test_the_parent_dies(tmp_path: Path) -> None:
    launcher = CONTEXT.Process(target=orphan, args=(tmp_path,))
    launcher.start()
    wait_for(tmp_path / "watching")
    launcher.kill()
    launcher.join()
    wait_for(tmp_path / "done")
    assert (tmp_path / "noticed").read_text() == "1"


def test_alone_without_a_launcher_there_is_no_thread() -> None:
    before = threading.active_count()
    with Watchdog(Place(), on_parent_death=lambda: None).watching() as watchdog:
        watchdog.arrived(1)
        assert threading.active_count() == before


class Lone:
    """Rank 0 of two processes, of which the test plays the other one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.verdicts: set[str] = set()

        async def end(watchdog: Watchdog, verdict: str, culprits: Any = None) -> None:
            self.verdicts.add(verdict)

        def gathered(value: tuple[str, int, str], place: Place) -> list[tuple[str, int, str]]:
            self.port, token = value[1:]
            self.greeting = json.dumps({"token": token, "rank": 1}).encode() + b"\n"
            return [value, ("node1", 0, "")]

        monkeypatch.setattr(Watchdog, "_end", end)
        monkeypatch.setattr(module, "gathered", gathered)
        self.watchdog = Watchdog(Place(processes=2), limit_seconds=1, on_parent_death=lambda: None)

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        with (
            self.watchdog.watching(),
            socket.create_connection(("127.0.0.1", self.port), timeout=10) as other,
        ):
            yield other

    def hears(self, update: int, state: State = "running", reason: str = "") -> bool:
        """Wait until this is what it has heard last of rank 1."""
        expected = Heartbeat(position=(update, 0), state=state, reason=reason)
        deadline = time.monotonic() + 10
        while self.watchdog._watched[1].last != expected and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.watchdog._watched[1].last == expected


def beat(update: int, *, state: State = "running", reason: str = "") -> bytes:
    message = {"position": [update, 0], "state": state, "reason": reason}
    return json.dumps(message, ensure_ascii=False).encode() + b"\n"


def test_messages_come_whole_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    lone = Lone(monkeypatch)
    with lone.connected() as other:
        other.sendall(lone.greeting + beat(1) + beat(2)[:20])
        assert lone.hears(1)
        other.sendall(beat(2)[20:] + beat(3))
        assert lone.hears(3)
        other.sendall(beat(4, state="left"))
        assert lone.hears(4, "left")
    assert lone.verdicts == set()


def test_what_was_sent_before_the_end_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    lone = Lone(monkeypatch)
    with lone.connected() as other:
        other.sendall(lone.greeting + beat(1) + beat(2, state="failed", reason="é"))
        other.close()
        assert lone.hears(2, "failed", "é")


def test_one_that_is_gone_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    lone = Lone(monkeypatch)
    with lone.connected() as other:
        other.sendall(lone.greeting + beat(1))
        assert lone.hears(1)
        other.close()
        assert lone.hears(1, "died")
        time.sleep(0.2)  # it watches on, with nobody to send to
    assert lone.verdicts == {"rank 1 on node1 died"}


@pytest.mark.parametrize("content", [b"GET / HTTP/1.1\r\n", b"[1]\n", b"\xff\n", b"x" * 70_000])
@pytest.mark.parametrize("is_known", [True, False])
def test_what_is_no_message_closes(
    monkeypatch: pytest.MonkeyPatch, content: bytes, is_known: bool
) -> None:
    lone = Lone(monkeypatch)
    with lone.connected() as other:
        other.sendall((lone.greeting if is_known else b"") + content)
        until_closed(other)
        assert lone.watchdog._watched[1].last.state == ("died" if is_known else "running")


def test_strangers_are_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    lone = Lone(monkeypatch)
    with lone.connected() as other:
        other.sendall(b'{"token": "", "rank": 1}\n' + beat(1, state="failed"))
        until_closed(other)
        assert lone.hears(-1)


def until_closed(other: socket.socket) -> None:
    with suppress(ConnectionResetError):
        while other.recv(1 << 16):
            pass


def test_one_that_does_not_read_blocks_nobody() -> None:
    async def flood() -> list[int]:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        watchdog = Watchdog(Place(), on_parent_death=lambda: None)
        _, writer = await asyncio.open_connection(sock=ours)
        watchdog._links[writer] = Observed(rank=1, host="node1")
        for number in range(10_000):
            watchdog._send({"number": number, "text": "x" * 100})
        received = b""
        while b"-1" not in received:
            received += await asyncio.get_running_loop().sock_recv(theirs, 1 << 16)
            watchdog._send({"number": -1})
        writer.close()
        theirs.close()
        return [json.loads(line)["number"] for line in received.split(b"\n")[:-1]]

    # the first ones came whole, the last ones were dropped
    whole = [number for number in asyncio.run(flood()) if number >= 0]
    assert whole == [*range(len(whole))]
    assert 0 < len(whole) < 10_000


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "node1.cluster"])
def test_listening(address: str) -> None:
    with listen(address) as listener:
        where = ("127.0.0.1", listener.getsockname()[1])
        with socket.create_connection(where, timeout=5) as connected:
            assert connected.getpeername()[1] == where[1]


def test_nccls_record_is_written_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRACES, f"{tmp_path}/nccl-trace-")
    library = torch._C._distributed_c10d
    monkeypatch.delattr(library, "_dump_nccl_trace", raising=False)  # as on a CPU
    _write_trace(3)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(library, "_dump_nccl_trace", lambda: b"record", raising=False)
    _write_trace(3)
    assert (tmp_path / "nccl-trace-3").read_bytes() == b"record"
    monkeypatch.delenv(TRACES)
    _write_trace(4)


def test_only_this_host_is_heard_where_all_run_on_it() -> None:
    with listen("127.0.0.1") as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
