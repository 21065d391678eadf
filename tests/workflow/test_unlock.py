import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workflow import unlock

SCRIPT = Path(unlock.__file__)


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """Return a workflow directory as a killed Snakemake leaves it."""
    (tmp_path / "Snakefile").write_text("rule all:\n    input: []\n")
    locks = tmp_path / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.output.lock").write_text("results/model\n")
    return tmp_path


@contextmanager
def running(directory: Path, program: str, *arguments: str, seconds: float) -> Iterator[int]:
    """Run a script of the name `program` that only sleeps; yield its process id."""
    script = directory / "bin" / program
    script.parent.mkdir(exist_ok=True)
    script.write_text(f"import time\n\ntime.sleep({seconds})\n")
    process = subprocess.Popen([sys.executable, "-u", str(script), *arguments], cwd=directory)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def run_unlock(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT)], cwd=directory, capture_output=True, text=True, timeout=60
    )


def test_a_directory_without_lock_is_left_alone(tmp_path: Path) -> None:
    result = run_unlock(tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_live_snakemake_keeps_its_lock(locked: Path) -> None:
    with running(locked, "snakemake", "--cores", "2", seconds=60) as pid:
        result = run_unlock(locked)
    assert result.returncode == 2
    assert result.stderr.startswith(f"Snakemake is running here already: pid {pid}: ")
    assert result.stderr.endswith("snakemake --cores 2\n")
    assert result.stderr.count("\n") == 1
    assert (locked / ".snakemake/locks/0.output.lock").exists()


def test_jobs_of_a_dead_snakemake_are_waited_for(locked: Path) -> None:
    start = time.monotonic()
    with running(locked, "esm1b", "tokenize", "corpus", seconds=2) as pid:
        result = run_unlock(locked)
    assert time.monotonic() - start >= 2
    assert result.returncode == 0
    waiting, unlocked = result.stdout.splitlines()
    assert waiting.startswith(f"Waiting for jobs of an interrupted run to end: pid {pid}: ")
    assert waiting.endswith("esm1b tokenize corpus")
    assert unlocked == "Unlocked the directory: the Snakemake that had locked it is gone."
    assert not (locked / ".snakemake/locks").exists()


def test_a_snakemake_in_another_directory_does_not_matter(locked: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with running(other, "snakemake", "--cores", "2", seconds=60):
        result = run_unlock(locked)
    assert result.returncode == 0
    assert not (locked / ".snakemake/locks").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["snakemake", "--cores", "all"], True),
        (["/env/bin/python3.11", "/env/bin/snakemake", "-n"], True),
        (["python", "-m", "snakemake", "--cores", "2"], True),
        (["python", "-m", "snakemake", "results/a", "--mode", "subprocess"], False),
        (["python", "train.py", "-m", "snakemake"], False),
        (["less", "snakemake"], False),
        ([], False),  # a zombie
    ],
)
def test_is_engine(arguments: list[str], expected: bool) -> None:
    assert unlock.is_engine(arguments) is expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["/env/bin/python", "/env/bin/esm1b", "shard", "a.fasta"], True),
        (["/env/bin/python", "-u", "-m", "esm1b", "pretrain", "run.json"], True),
        (["/env/bin/python", "/env/bin/torchrun", "--nproc-per-node", "2"], True),
        (["python", "-m", "torch.distributed.run", "--standalone"], True),
        (["python", "-m", "snakemake", "results/a", "--mode", "subprocess"], True),
        (["/bin/bash", "-c", "set -euo pipefail;  esm1b shard a.fasta > log"], True),
        (["/bin/bash"], False),
        (["/bin/bash", "-c", "cd ~/esm1b && make test"], False),
        (["vim", "esm1b/cli.py"], False),
        (["/home/me/esm1b/.venv/bin/python", "-m", "pytest"], False),
    ],
)
def test_is_job(arguments: list[str], expected: bool) -> None:
    assert unlock.is_job(arguments) is expected
