"""What can end a command besides success, and the exit status of each."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_UNUSABLE_PATH: Final = {
    *(errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT),
    *(errno.ENOTDIR, errno.EPERM, errno.EROFS),
}


class Ending(Exception):  # noqa: N818 (not always an error)
    """Base class of what ends a command with a message of one line instead of a traceback.

    Attributes:
        status: exit status of the command
        is_shared: True if all processes of a run raise it alike; then only the first prints it
    """

    status = 1
    is_shared = False


class UserError(Ending):
    """The user's input is wrong.

    The message names the file, the record or field, the bad value and what was expected.
    """

    status = 2


class SharedUserError(UserError):
    """The user's input is wrong in all processes of a run."""

    is_shared = True


class OutputError(Ending):
    """An output was tampered with while it was written; the message names the file."""


class DownloadError(Ending):
    """A download failed; the message names each server and its answer."""


class RunFailure(Ending):
    """A training run cannot continue."""

    is_shared = True


class StoppedForGood(RunFailure):
    """Repeating the command makes no sense before somebody has seen to the cause.

    The number is EX_CONFIG of sysexits.h, which nothing else here uses: a script may repeat the
    command on 1 and on 75, and ends on this one.
    """

    status = 78


class Stopped(Ending):
    """The user or the scheduler asked to stop, and everything is saved for the same command."""

    status = 75
    is_shared = True


@contextmanager
def paths_of_the_user() -> Iterator[None]:
    """Turn an `OSError` about a path that cannot be used into a `UserError`.

    Raises:
        UserError: the message names the path and the system's reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _UNUSABLE_PATH:
            raise
        raise UserError(one_line(error)) from error


def one_line(error: BaseException) -> str:
    """Return what an error says, in one line; of the system's errors, its words and the file."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
