"""One run to a directory of checkpoints."""

import errno
import fcntl
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from esm1b.errors import UserError

_log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.2
# Lustre mounted without flock, NFS without its lock daemon.
_NO_LOCKS: Final = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}


@contextmanager
def directory_lock(directory: Path, *, patience_seconds: float = 60) -> Iterator[None]:
    """Keep a second run out of `directory`.

    The lock goes with the process that holds it, however that one ends, so none is ever stale; the
    file itself stays, and tells who holds it. On a file system without locks it only warns.

    Args:
        directory: of the checkpoints.
        patience_seconds: how long to wait for the holder: one whose launcher was killed is saving.

    Raises:
        UserError: another process still holds it.
    """
    with (directory / "lock").open("a+") as file:
        until = time.monotonic() + patience_seconds
        is_told = False
        while not _is_locked(file):
            file.seek(0)
            holder = file.read().strip() or "unknown"
            if time.monotonic() >= until:
                raise UserError(
                    f"{directory}: another process is training here ({holder}); expected to be the "
                    "only one"
                )
            if not is_told:
                _log.info("%s: waiting for %s, which is training here, to end", directory, holder)
                is_told = True
            time.sleep(_POLL_SECONDS)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def _is_locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _log.warning(
            "%s: this file system has no locks (%s), so nothing keeps a second run away",
            file.name,
            error.strerror,
        )
    return True
