"""Time and memory of work in a new process, the processes that it starts included."""

import multiprocessing
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import psutil

# Short beside the seconds in which memory fills; reading the memory takes a millisecond or two.
_SECONDS_BETWEEN_READINGS: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Time and memory of one run of some work.

    Attributes:
        seconds: elapsed time, the start of the process included.
        cpu_seconds: processor time of all processes, user and system.
        system_seconds: processor time that all processes spent in the kernel.
        peak_memory_bytes: largest sum of resident memory; shared memory counts in each process.
    """

    seconds: float
    cpu_seconds: float
    system_seconds: float
    peak_memory_bytes: int


def run_in_turn(sides: Mapping[str, Callable[[], object]], passes: int) -> dict[str, list[Usage]]:
    """Run every side once per pass, each time in a new process; return what each pass took.

    Raises:
        RuntimeError: a side failed.
    """
    usages: dict[str, list[Usage]] = {name: [] for name in sides}
    for _ in range(passes):
        for name, work in sides.items():
            usages[name].append(_run(name, work))
    return usages


def summary(usages: Sequence[Usage], *, amount: float, unit: str) -> dict[str, Any]:
    """Return rates, and the time and memory of each pass.

    Args:
        usages: time and memory of each pass.
        amount: amount of work in a pass, in units.
        unit: name of the unit in the keys, such as `megabytes`.
    """
    return {
        f"{unit}_per_second": round(amount / median(one.seconds for one in usages), 1),
        f"{unit}_per_cpu_second": round(amount / median(one.cpu_seconds for one in usages), 1),
        "peak_memory_mib": round(max(one.peak_memory_bytes for one in usages) / 2**20),
        "seconds_by_pass": [round(one.seconds, 2) for one in usages],
        "cpu_seconds_by_pass": [round(one.cpu_seconds, 2) for one in usages],
        "system_seconds_by_pass": [round(one.system_seconds, 2) for one in usages],
    }


def _run(name: str, work: Callable[[], object]) -> Usage:
    # not a daemon, which could not start processes of its own
    process = multiprocessing.get_context("spawn").Process(target=work)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    process.start()
    peak = 0
    root = psutil.Process(process.pid)
    while process.exitcode is None:
        peak = max(peak, _resident(root))
        process.join(timeout=_SECONDS_BETWEEN_READINGS)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.exitcode:
        raise RuntimeError(f"{name}: exit status {process.exitcode}; expected 0")
    system = after.ru_stime - before.ru_stime
    return Usage(
        seconds=seconds,
        cpu_seconds=after.ru_utime - before.ru_utime + system,
        system_seconds=system,
        peak_memory_bytes=peak,
    )


def _resident(root: psutil.Process) -> int:
    total = 0
    try:
        for process in (root, *root.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass  # a process has just ended; the next reading leaves it out
    return total
