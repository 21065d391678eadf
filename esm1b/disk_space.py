"""Saying what to do when a file system is full."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from esm1b.errors import UserError


@contextmanager
def explain_full_disk(directory: Path, need: Callable[[], str]) -> Iterator[None]:
    """Turn the system's message that it has no more room into one that helps.

    Args:
        directory: where the block writes.
        need: returns what it needs there, in words.

    Raises:
        UserError: the file system or the user's share of it is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = next(path for path in (directory, *directory.parents) if path.exists())
        free = shutil.disk_usage(place).free
        raise UserError(
            f"{directory}: {os.strerror(error.errno)}, {size_in_words(free)} are free without what "
            f"was written; expected {need()}"
        ) from error


def size_in_words(size: float) -> str:
    """Return a number of bytes as gigabytes, or as megabytes if it is small."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
