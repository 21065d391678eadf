"""What can end a command besides success, and the exit status that each one means."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# What the system says of a path that cannot be used.
_UNUSABLE: Final = {
    *(errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT),
    *(errno.ENOTDIR, errno.EPERM, errno.EROFS),
}


class UserError(Exception):
    """The user's input is wrong: exit status 2.

    The message is one line that names the file, the record or field, the bad value and what was
    expected.
    """


class SharedUserError(UserError):
    """A `UserError` that all processes of a run raise alike, so that one of them tells it."""


class DownloadError(Exception):
    """The network did not deliver what was asked for: exit status 1.

    The message is one line that names each server and what it answered.
    """


class RunFailure(Exception):  # noqa: N818 (what became of the run)
    """A training run could not go on: exit status 1.

    The message is one line that says why.
    """


class Stopped(Exception):  # noqa: N818 (a request to stop is no error)
    """The user or the scheduler asked to stop and everything is saved: exit status 75.

    The same command, given again, goes on from there.
    """


@contextmanager
def paths_of_the_user() -> Iterator[None]:
    """Take an `OSError` for the user's where it says that a path cannot be used.

    Raises:
        UserError: naming the path and what the system says of it.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _UNUSABLE:
            raise
        raise UserError(one_line(error)) from error


def one_line(error: BaseException) -> str:
    """Return what an error says, in one line; of the system's errors, its words and the file."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
