"""Killing `esm1b shard` and `esm1b tokenize`, and giving the same command again."""

import gzip
import random
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

REPOSITORY = Path(__file__).parents[2]
LETTERS = random.Random(5)
RECORDS = "".join(
    f">UniRef50_{number} Name n=1 Tax=root TaxID=1 RepID=R{number}\n"
    f"{''.join(LETTERS.choices('LAGVSERTIDPKQNFYMHWC', k=LETTERS.randrange(20, 400)))}\n"
    for number in range(6000)
)


def start(*arguments: object, stdin: int | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "esm1b", *map(str, arguments)],
        cwd=REPOSITORY,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # a shell starts what it runs in the background with Ctrl-C ignored
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def wait_until_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive


def kill_and_repeat(command: list[object], output: Path, moments: int) -> None:
    """Run `command` undisturbed, then kill it at random moments, and repeat it to its end."""
    started = time.monotonic()
    assert start(*command).wait() == 0
    duration = time.monotonic() - started
    expected = content(output)
    times = random.Random(7)
    killed = 0
    for moment in range(moments):
        process = start(*command)
        time.sleep(times.uniform(0.2, 1.0) * duration)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        wait_until_gone(workers)
        # the old result, or the new one, but never a part
        assert content(output) == expected
        if moment % 2:  # also without one to replace
            for path in sorted(output.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            output.rmdir()
            assert start(*command).wait() == 0
            assert content(output) == expected
    assert start(*command).wait() == 0
    assert content(output) == expected
    assert sorted(path.name for path in output.parent.iterdir() if path.name[0] == ".") == []
    assert killed > moments // 2


@pytest.fixture
def shard_command(tmp_path: Path) -> list[object]:
    (tmp_path / "input.fasta.gz").write_bytes(gzip.compress(RECORDS.encode()))
    (tmp_path / "out").mkdir()
    corpus = tmp_path / "out" / "corpus"
    options = ["--shards=12", "--validation-fraction=0.1", "--workers=2"]
    return ["shard", tmp_path / "input.fasta.gz", f"--output={corpus}", *options]


def test_shard_killed_at_some_moments(tmp_path: Path, shard_command: list[object]) -> None:
    kill_and_repeat(shard_command, tmp_path / "out" / "corpus", moments=3)


@pytest.mark.slow
def test_shard_killed_at_50_moments(tmp_path: Path, shard_command: list[object]) -> None:
    kill_and_repeat(shard_command, tmp_path / "out" / "corpus", moments=50)


def tokenize_command(tmp_path: Path, shard_command: list[object]) -> list[object]:
    assert start(*shard_command).wait() == 0
    (tmp_path / "tokens").mkdir()
    output = tmp_path / "tokens" / "tokens"
    return ["tokenize", tmp_path / "out" / "corpus", f"--output={output}", "--workers=2"]


def test_tokenize_killed_at_some_moments(tmp_path: Path, shard_command: list[object]) -> None:
    command = tokenize_command(tmp_path, shard_command)
    kill_and_repeat(command, tmp_path / "tokens" / "tokens", moments=2)


@pytest.mark.slow
def test_tokenize_killed_at_50_moments(tmp_path: Path, shard_command: list[object]) -> None:
    command = tokenize_command(tmp_path, shard_command)
    kill_and_repeat(command, tmp_path / "tokens" / "tokens", moments=50)


class Waiting:
    """`esm1b shard` that waits for more input, with its workers."""

    def __init__(self, output: Path) -> None:
        options = [f"--output={output}", "--validation-fraction=0.1", "--workers=2"]
        self.process = start("shard", "-", *options, stdin=subprocess.PIPE)
        assert self.process.stdin is not None
        self.stdin = self.process.stdin
        self.stdin.write(RECORDS.encode() * 3)
        self.stdin.flush()
        self.workers: list[psutil.Process] = []
        while len(self.workers) < 2:
            assert self.process.poll() is None
            time.sleep(0.05)
            self.workers = [
                child
                for child in psutil.Process(self.process.pid).children()
                if "spawn_main" in " ".join(child.cmdline())
            ]

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=60)
        wait_until_gone(self.workers)
        return self.process.returncode, errors.decode()


def test_a_worker_that_is_killed_ends_the_command_with_one_line(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path / "corpus")
    waiting.workers[0].kill()
    status, errors = waiting.end()
    assert status == 1
    assert errors.startswith("esm1b: error: worker 0 died: SIGKILL, which is how a system that is")
    assert len(errors.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_workers_of_a_killed_command_end_at_once(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path / "corpus")
    waiting.process.kill()
    assert waiting.end()[0] == -signal.SIGKILL
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left[0] == ".corpus.lock"
    assert re.fullmatch(r"\.corpus~[0-9a-f]{8}\.partial", left[1])
    assert len(left) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_leaves_nothing_but_what_the_next_removes(
    tmp_path: Path, number: signal.Signals
) -> None:
    waiting = Waiting(tmp_path / "corpus")
    waiting.process.send_signal(number)
    status, errors = waiting.end()
    assert status != 0
    assert "Traceback" not in errors
    (tmp_path / "input.fasta").write_text(RECORDS)
    command = ["shard", tmp_path / "input.fasta", f"--output={tmp_path / 'corpus'}"]
    assert start(*command).wait() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "input.fasta"]
