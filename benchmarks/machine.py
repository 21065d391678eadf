"""The machine on which a result was measured, and the memory of this process."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, Final

_PACKAGES: Final = ("torch", "transformers", "fair-esm", "numpy")


def describe_machine(threads: int) -> dict[str, Any]:
    """Return processor, cores, memory, versions, and the load before the measurement."""
    import torch  # here, so that a process may ask for its memory without loading torch

    described: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := installed_version(name))},
    }
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
        described["cuda"] = torch.version.cuda
    return described


def peak_memory_bytes() -> int:
    """Return the peak resident memory of this process (Linux's VmHWM).

    `getrusage` would not do: after a fork its peak starts from the parent's.
    """
    return _status("VmHWM")


def resident_memory_bytes() -> int:
    """Return the current resident memory of this process (Linux's VmRSS)."""
    return _status("VmRSS")


def installed_version(package: str) -> str | None:
    """Return the version of a package, or None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


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
