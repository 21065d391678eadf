"""`workflow/launch.sh`: which ends of a training command put its SLURM job back into the queue."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "workflow" / "launch.sh"
BEGIN = """mkdir -p checkpoints && echo '{"event": "started"}' >>checkpoints/attempts.jsonl; """


def launch(
    directory: Path, command: str, *, state: str = "RUNNING None", job: str | None = "4711"
) -> tuple[int, str]:
    """Return the exit status, and what scontrol was asked for."""
    programs = {"squeue": f"echo {state}", "scontrol": 'echo "$@" >>asked', "sleep": ":"}
    for name, text in programs.items():
        path = directory / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    environment = {"PATH": f"{directory / 'bin'}:{os.environ['PATH']}"}
    result = subprocess.run(
        ["sh", str(SCRIPT), "checkpoints", "sh", "-c", command],
        cwd=directory,
        env=environment if job is None else environment | {"SLURM_JOB_ID": job},
        capture_output=True,
        text=True,
    )
    asked = directory / "asked"
    return result.returncode, asked.read_text() if asked.exists() else ""


@pytest.mark.parametrize(
    ("command", "status", "asked"),
    [
        ("exit 75", 75, "requeue 4711\n"),
        (f"{BEGIN} exit 1", 1, "requeue 4711\n"),
        (f"{BEGIN} kill -9 $$", 137, "requeue 4711\n"),
        ("exit 1", 1, ""),  # before training: the trainer's guard would not count it
        (f"{BEGIN} exit 0", 0, ""),
        (f"{BEGIN} exit 2", 2, ""),
        (f"{BEGIN} exit 78", 78, ""),
    ],
)
def test_stops_and_crashes_come_back(tmp_path: Path, command: str, status: int, asked: str) -> None:
    assert launch(tmp_path, command) == (status, asked)


def test_attempts_of_earlier_runs_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "attempts.jsonl").write_text('{"event": "started"}\n' * 2)
    assert launch(tmp_path, "exit 1") == (1, "")
    assert launch(tmp_path, f"{BEGIN} exit 1") == (1, "requeue 4711\n")


def test_the_time_limit_came_before_the_signal(tmp_path: Path) -> None:
    assert launch(tmp_path, "exit 75", state="COMPLETING TimeLimit") == (75, "requeue 4711\n")


@pytest.mark.parametrize("state", ["COMPLETING None", "CANCELLED None", ""])
def test_a_job_that_slurm_is_ending_stays_out_of_the_queue(tmp_path: Path, state: str) -> None:
    assert launch(tmp_path, "exit 75", state=state) == (75, "")


def test_outside_of_slurm_it_is_only_the_command(tmp_path: Path) -> None:
    assert launch(tmp_path, "exit 75", job=None) == (75, "")


def test_it_outlives_the_signal_that_its_command_handles(tmp_path: Path) -> None:
    command = "trap 'exit 75' USR1; kill -USR1 $PPID $$; sleep 5"
    assert launch(tmp_path, command) == (75, "requeue 4711\n")
