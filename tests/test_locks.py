import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from esm1b.errors import UserError
from esm1b.locks import exclusive_lock

HOLD = """
import sys, time
from pathlib import Path
from esm1b.locks import exclusive_lock
file = Path(sys.argv[1])
with exclusive_lock(file, path=file, doing="is here"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(file: Path, seconds: float) -> "subprocess.Popen[str]":
    """Return a process that holds the lock by now."""
    command = [sys.executable, "-c", HOLD, str(file), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_holder_is_named_until_it_is_killed(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    process = holder(file, 60)
    try:
        with (
            pytest.raises(UserError) as caught,
            exclusive_lock(file, path=tmp_path / "out", doing="is writing it"),
        ):
            pytest.fail("two hold the lock")
    finally:
        process.kill()
        process.wait()
    assert str(caught.value) == (
        f"{tmp_path}/out: another process is writing it (process {process.pid} on "
        f"{os.uname().nodename}); expected to be the only one"
    )
    assert file.read_text().startswith(f"process {process.pid} on ")  # a kill leaves it
    with exclusive_lock(file, path=file, doing="is here") as is_exclusive:
        assert is_exclusive
        assert file.read_text() == f"process {os.getpid()} on {os.uname().nodename}\n"
    assert not file.exists()


def test_an_error_releases_the_lock(tmp_path: Path) -> None:
    for _ in range(2):
        with (
            pytest.raises(RuntimeError, match="halfway"),
            exclusive_lock(tmp_path / ".lock", path=tmp_path, doing="is here"),
        ):
            raise RuntimeError("halfway")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_removed_while_it_was_opened_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".lock"
    file.touch()
    flock, calls = fcntl.flock, []

    def removed_before(lock: Any, operation: int) -> None:
        calls.append(file.exists() and file.stat().st_ino)
        if len(calls) == 1:
            file.unlink()
        if len(calls) == 2:
            file.unlink()
            file.touch()
        flock(lock, operation)

    monkeypatch.setattr(fcntl, "flock", removed_before)
    with exclusive_lock(file, path=file, doing="is here"):
        assert len(calls) == 3
        with (
            pytest.raises(UserError, match="another process is here"),
            exclusive_lock(file, path=file, doing="is here"),
        ):
            pytest.fail("two hold the lock")


def test_one_of_many_holds_it(tmp_path: Path) -> None:
    """Threads open and remove the file all the time; no two are ever inside."""
    inside: list[int] = []
    most = 0
    entered = 0
    until = time.monotonic() + 0.5

    def work() -> None:
        nonlocal most, entered
        while time.monotonic() < until:
            with exclusive_lock(
                tmp_path / ".lock", path=tmp_path, doing="is here", patience_seconds=30
            ):
                inside.append(1)
                most = max(most, len(inside))
                entered += 1
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert entered > 4
    assert list(tmp_path.iterdir()) == []


def test_a_lock_may_stay(tmp_path: Path) -> None:
    with exclusive_lock(tmp_path / "lock", path=tmp_path, doing="is here", keep=True):
        pass
    assert (tmp_path / "lock").read_text().startswith("process ")


def test_a_folder_where_nothing_can_be_made(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError),
        exclusive_lock(tmp_path / "none" / ".lock", path=tmp_path, doing="is here"),
    ):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with exclusive_lock(tmp_path / ".lock", path=tmp_path, doing="is here") as is_exclusive:
        assert not is_exclusive
    assert caplog.messages == [
        f"{tmp_path}/.lock: this file system has no locks (no locks here), so nothing keeps a "
        "second run away"
    ]
