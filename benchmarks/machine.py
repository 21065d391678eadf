"""The machine that a result was measured on."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def describe_machine(threads: int) -> dict[str, Any]:
    """Return processor, cores, memory, versions and how busy the machine was at the start."""
    described: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
        described["cuda"] = torch.version.cuda
    return described


def peak_memory_bytes() -> int:
    """Return the most memory that this process ever had resident (Linux's VmHWM).

    Unlike `getrusage`, which after a fork starts from the parent's, it counts this process alone.
    """
    return _status("VmHWM")


def resident_memory_bytes() -> int:
    """Return the memory that this process has resident now (Linux's VmRSS)."""
    return _status("VmRSS")


_PACKAGES = ("torch", "transformers", "fair-esm", "numpy")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.removesuffix("kB")) * 1024
    raise KeyError(field)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
