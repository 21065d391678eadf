"""What the batch system tells a process about its job, from the environment."""

import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from typing import Final

_JOBS: Final = {
    "SLURM_JOB_ID": "SLURM",
    "PBS_JOBID": "PBS",
    "LSB_JOBID": "LSF",
    "JOB_ID": "Grid Engine",
}
# Lists of GPUs, then their number on the node; set only where the job asked for some.
_GPUS: Final = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE")
_SQUEUE_SECONDS: Final = 10.0
# SLURM's "[days-][[hours:]minutes:]seconds"
_TIME: Final = re.compile(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", re.ASCII)
_UNITS: Final = (86_400, 3_600, 60, 1)


def job_name(environment: Mapping[str, str]) -> str | None:
    """Return the name of the job, such as "SLURM job 4711"; None outside of a batch system."""
    for variable, system in _JOBS.items():
        if environment.get(variable):
            return f"{system} job {environment[variable]}"
    return None


def this_process() -> str:
    """Return what to look for to find this process: "SLURM job 4711, process 187 on n1"."""
    job = job_name(os.environ)
    return (f"{job}, " if job else "") + f"process {os.getpid()} on {platform.node()}"


def requested_gpus(environment: Mapping[str, str]) -> str | None:
    """Return the variable that says that the job has GPUs, as "NAME=value"; None without one."""
    for variable in _GPUS:
        value = environment.get(variable)
        if value and (variable, value) != ("SLURM_GPUS_ON_NODE", "0"):
            return f"{variable}={value}"
    return None


def unused_nodes(environment: Mapping[str, str]) -> str | None:
    """Return how many nodes of its job this step of SLURM leaves unused; None if it uses all."""
    job, step = environment.get("SLURM_JOB_NUM_NODES"), environment.get("SLURM_STEP_NUM_NODES")
    if not (job and step) or "SLURM_STEP_ID" not in environment or job == step:
        return None
    return (
        f"the step runs on {step} of the job's {job} nodes; expected srun --nodes={job} "
        "--ntasks-per-node=N, or a smaller job"
    )


def seconds_left(environment: Mapping[str, str]) -> float | None:
    """Return the seconds until SLURM ends the job; None without a limit or outside of SLURM.

    SLURM 23.02 and later tell it in the environment; others are asked, which takes a moment.
    """
    end = environment.get("SLURM_JOB_END_TIME", "")
    if end.isdecimal():
        return int(end) - time.time()
    job = environment.get("SLURM_JOB_ID")
    if not job:
        return None
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%L"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=_SQUEUE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _TIME.fullmatch(answer.stdout.strip())
    if match is None:  # no limit, in words
        return None
    parts = map(int, match.groups(default="0"))
    return float(sum(part * unit for part, unit in zip(parts, _UNITS, strict=True)))
