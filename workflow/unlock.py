"""Unlock this directory after Snakemake was killed, once no live process works in it any more.

Snakemake's lock files name no process, so the processes of this machine are looked at: those of
this user whose working directory is the current one. A live Snakemake there keeps its lock (exit
status 2); jobs that outlived theirs are waited for, since they still write; then the lock goes.
A live SLURM job of the workflow keeps the lock as well (exit status 2). A Snakemake on another
machine, over a shared file system, is not seen.
"""

import os
import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import psutil

from esm1b.cluster.jobs import SlurmJob, find_jobs

__all__ = ["is_engine", "is_job", "main", "program"]

REPORT_SECONDS = 30.0
POLL_SECONDS = 0.5


def main() -> int:
    """Unlock the current directory if it is locked by nobody; return the exit status."""
    is_locked = any(Path(".snakemake/locks").glob("*.lock"))
    jobs: list[SlurmJob] | None = None
    report_at = 0.0
    while True:
        processes = _processes_here()
        for pid, arguments in processes:
            if is_engine(arguments):
                command = " ".join(arguments)
                print(f"Snakemake is running here already: pid {pid}: {command}", file=sys.stderr)
                return 2
        if jobs is None:
            jobs = find_jobs(Path.cwd(), own=os.environ.get("SLURM_JOB_ID"))
            for job in jobs:
                print(f"{job}: {job.advice}, then run the same command", file=sys.stderr)
        if jobs:
            return 2
        if not processes:
            break
        if time.monotonic() >= report_at:
            report_at = time.monotonic() + REPORT_SECONDS
            waiting = "; ".join(f"pid {pid}: {' '.join(arguments)}" for pid, arguments in processes)
            print(f"Waiting for jobs of an interrupted run to end: {waiting}", flush=True)
        time.sleep(POLL_SECONDS)
    if not is_locked:
        return 0
    unlock = [sys.executable, "-m", "snakemake", "--unlock"]
    result = subprocess.run(unlock, capture_output=True, text=True, check=False)
    if result.returncode:
        print(result.stderr.rstrip(), file=sys.stderr)
        return result.returncode
    print("Unlocked the directory: the Snakemake that had locked it is gone.")
    return 0


def is_engine(arguments: list[str]) -> bool:
    """Return whether a command line is a Snakemake run, not a job that one started (`--mode`)."""
    return program(arguments) == "snakemake" and "--mode" not in arguments


def is_job(arguments: list[str]) -> bool:
    """Return whether a command line is a job of the workflow or the shell that holds one."""
    if program(arguments) in {"esm1b", "torchrun", "torch.distributed.run", "snakemake"}:
        return True
    shell_command = _option(arguments, "-c") if program(arguments) in {"bash", "sh"} else ""
    return bool(re.search(r"(?<![\w./-])(esm1b|torchrun)\s", shell_command))


def program(arguments: list[str]) -> str:
    """Return what a command line runs: the script or module of a Python, else the executable."""
    name = Path(arguments[0]).name if arguments else ""
    if not name.startswith("python"):
        return name
    if module := _option(arguments, "-m"):
        return module.removesuffix(".__main__")
    scripts = [argument for argument in arguments[1:] if not argument.startswith("-")]
    return Path(scripts[0]).name if scripts else name


def _option(arguments: list[str], option: str) -> str:
    """Return the value of an interpreter's option, "" if the options before the script lack it."""
    for argument, value in pairwise(arguments[1:]):
        if argument == option:
            return value
        if not argument.startswith("-"):
            break
    return ""


def _processes_here() -> list[tuple[int, list[str]]]:
    """Return (pid, command line) of the live workflow processes in the current directory.

    This process and those that started it (make, shells, perhaps a Snakemake) do not count.
    """
    here, user = Path.cwd(), os.getuid()
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid in own or process.uids().real != user:
                continue
            arguments = process.cmdline()
            if (is_engine(arguments) or is_job(arguments)) and Path(process.cwd()) == here:
                found.append((process.pid, arguments))
        except psutil.Error:  # it ended meanwhile, or may not be looked at
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
