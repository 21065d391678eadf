import os
import platform
import subprocess
import time
from pathlib import Path

import pytest

from esm1b.scheduler import job_name, requested_gpus, seconds_left, this_process, unused_nodes


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "4711", "PBS_JOBID": ""}, "SLURM job 4711"),
        ({"PBS_JOBID": "12.server"}, "PBS job 12.server"),
        ({"LSB_JOBID": "9"}, "LSF job 9"),
        ({"JOB_ID": "3"}, "Grid Engine job 3"),
    ],
)
def test_jobs_are_named(environment: dict[str, str], name: str | None) -> None:
    assert job_name(environment) == name


def test_a_process_is_named_with_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    process = f"process {os.getpid()} on {platform.node()}"
    assert this_process() == process
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert this_process() == f"SLURM job 4711, {process}"


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, None),
        ({"SLURM_JOB_GPUS": "0"}, "SLURM_JOB_GPUS=0"),
        ({"SLURM_GPUS_ON_NODE": "8"}, "SLURM_GPUS_ON_NODE=8"),
        ({"SLURM_GPUS_ON_NODE": "0"}, None),
    ],
)
def test_gpus_of_a_job(environment: dict[str, str], told: str | None) -> None:
    assert requested_gpus(environment) == told


def test_a_step_smaller_than_its_job() -> None:
    step = {"SLURM_STEP_ID": "0", "SLURM_JOB_NUM_NODES": "4", "SLURM_STEP_NUM_NODES": "4"}
    assert unused_nodes({}) is None
    assert unused_nodes(step) is None
    assert unused_nodes(step | {"SLURM_STEP_NUM_NODES": "1"}) == (
        "the step runs on 1 of the job's 4 nodes; expected srun --nodes=4 --ntasks-per-node=N, or "
        "a smaller job"
    )


def test_newer_slurm_tells_the_end_of_the_job() -> None:
    left = seconds_left({"SLURM_JOB_ID": "1", "SLURM_JOB_END_TIME": str(int(time.time()) + 100)})
    assert left is not None
    assert 98 < left <= 100


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        ("1-02:03:04", 93_784),
        ("02:03:04", 7384),
        ("1:30", 90),
        ("0:05", 5),
        ("UNLIMITED", None),
        ("INVALID", None),
        ("", None),
    ],
)
def test_older_slurm_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, seconds: float | None
) -> None:
    squeue = tmp_path / "squeue"
    asked = "--noheader --jobs=4711 --format=%L"
    squeue.write_text(f'#!/bin/sh\n[ "$*" = "{asked}" ] && echo {answer}\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert seconds_left({"SLURM_JOB_ID": "4711"}) == seconds


def test_without_slurm_or_its_commands_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seconds_left({}) is None

    def missing(*arguments: object, **others: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", missing)
    assert seconds_left({"SLURM_JOB_ID": "4711"}) is None
