"""What a piece of work takes in a process of its own, with all the processes that it starts."""

import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import psutil

# Short beside the seconds in which memory fills; a look takes a millisecond or two.
_SECONDS_BETWEEN_LOOKS: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What the work took.

    Attributes:
        seconds: from start to end, the process's own start included.
        cpu_seconds: of all processes, user and system.
        system_seconds: of those, in the kernel.
        peak_memory_bytes: the largest sum of resident memory; what processes share counts in each.
    """

    seconds: float
    cpu_seconds: float
    system_seconds: float
    peak_memory_bytes: int


def run_in_process(function: Callable[..., Any], *arguments: Any) -> Taken:
    """Return what `function(*arguments)` takes in a new process.

    Raises:
        RuntimeError: it failed.
    """
    # not a daemon, which could not start processes of its own
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    process.start()
    peak = 0
    root = psutil.Process(process.pid)
    while process.exitcode is None:
        peak = max(peak, _resident(root))
        process.join(timeout=_SECONDS_BETWEEN_LOOKS)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.exitcode:
        raise RuntimeError(f"{function.__name__} ended with status {process.exitcode}")
    system = after.ru_stime - before.ru_stime
    return Taken(
        seconds=seconds,
        cpu_seconds=after.ru_utime - before.ru_utime + system,
        system_seconds=system,
        peak_memory_bytes=peak,
    )


def summary(taken: Sequence[Taken], *, amount: float, unit: str) -> dict[str, Any]:
    """Return rates of an amount of work, and what it took in each pass.

    Args:
        taken: by pass.
        amount: of work in a pass, in units.
        unit: of the rates, such as `megabytes`.
    """
    return {
        f"{unit}_per_second": round(amount / median(one.seconds for one in taken), 1),
        f"{unit}_per_cpu_second": round(amount / median(one.cpu_seconds for one in taken), 1),
        "peak_memory_mib": round(max(one.peak_memory_bytes for one in taken) / 2**20),
        "seconds_by_pass": [round(one.seconds, 2) for one in taken],
        "cpu_seconds_by_pass": [round(one.cpu_seconds, 2) for one in taken],
        "system_seconds_by_pass": [round(one.system_seconds, 2) for one in taken],
    }


def _resident(root: psutil.Process) -> int:
    total = 0
    try:
        for process in (root, *root.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass  # one ended meanwhile; the next look is better
    return total
