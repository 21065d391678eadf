"""What can end a command besides success, and the exit status of each."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_UNUSABLE_PATH: Final = {
    *(errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT),
    *(errno.ENOTDIR, errno.EPERM, errno.EROFS),
}


class UserError(Exception):
    """The user's input is wrong: exit status 2.

    The message is one line that names the file, the record or field, the bad value and what was
    expected.
    """


class SharedUserError(UserError):
    """A `UserError` that all processes of a run raise alike; only the first prints it."""


class DownloadError(Exception):
    """A download failed: exit status 1.

    The message is one line that names each server and its answer.
    """


class RunFailure(Exception):  # noqa: N818 (the outcome of a run)
    """A training run cannot continue: exit status 1, with the reason in one line."""


class Stopped(Exception):  # noqa: N818 (not an error)
    """The user or the scheduler asked to stop and everything is saved: exit status 75.

    The same command, run again, resumes.
    """


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
        raise UserError(f"{error.filename}: {error.strerror}") from error
