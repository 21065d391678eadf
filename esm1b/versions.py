"""The versions of what decides a result."""

import platform
from importlib.metadata import version


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    packages = ("esm1b", "torch", "deepspeed")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
