"""Full file systems and quotas, told in one line wherever they are met."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from esm1b.errors import Ending, UserError

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
# Arrow and Python say "[errno 28]", Rust (safetensors) "(os error 28)".
_NUMBER: Final = re.compile(rf"(?:errno|os error) ({'|'.join(map(str, _FULL))})\b", re.IGNORECASE)


@contextmanager
def explain_full_disk(
    directory: Path, need: Callable[[], float | str] | None = None
) -> Iterator[None]:
    """Say what to do when there is no more room in `directory`, where the block writes.

    `need` returns the bytes that the block takes, or says in words what it takes.

    Raises:
        UserError: the file system, or the user's share of it, is full.
    """
    try:
        yield
    except Exception as error:
        if (number := full_disk(error)) is None:
            raise
        place = next(path for path in (directory, *directory.parents) if path.exists())
        free = shutil.disk_usage(place).free
        expected = "more room" if need is None else need()
        if not isinstance(expected, str):
            is_more = expected > free or number == errno.EDQUOT
            expected = f"about {size_in_words(expected)}" if is_more else "more than that"
        told = os.strerror(number)
        if number == errno.ENOSPC:  # what is free says nothing about a quota
            told += f", {size_in_words(free)} are free without what was written"
        raise UserError(f"{directory}: {told}; expected {expected}") from error


@contextmanager
def full_disks_in_a_line() -> Iterator[None]:
    """Say in one line that a file system is full, wherever it is.

    Raises:
        UserError: naming the file, if the error does.
    """
    try:
        yield
    except Exception as error:
        if (number := full_disk(error)) is None:
            raise
        file = getattr(error, "filename", None)
        told = os.strerror(number) if file is None else f"{file}: {os.strerror(number)}"
        raise UserError(f"{told}; expected more room") from error


def full_disk(error: BaseException) -> int | None:
    """Return ENOSPC or EDQUOT if one of them is behind `error`, which may be of any library.

    Libraries raise classes of their own, or fail again while they close the file. An `Ending` has
    its own words.
    """
    if isinstance(error, Ending):
        return None
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or following.__context__
    for link in chain:
        if isinstance(link, OSError) and link.errno in _FULL:
            return link.errno
        notes = getattr(link, "__notes__", [])  # the traceback of a worker process
        if match := _NUMBER.search("\n".join([str(link), *notes])):
            return int(match[1])
    return None


def size_in_words(size: float) -> str:
    """Return a number of bytes as gigabytes, or as megabytes or kilobytes if it is small."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1e3:.1f} kB"
