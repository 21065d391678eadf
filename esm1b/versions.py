"""Versions of the software that decides a result."""

import platform
from importlib.metadata import version
from typing import Final

__version__: Final = "0.1.0"
"""Version of this package; pyproject.toml reads it here."""


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    ours = {"python": platform.python_version(), "esm1b": __version__}
    return {**ours, **{name: version(name) for name in ("torch", "deepspeed")}}
