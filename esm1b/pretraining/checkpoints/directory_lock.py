"""One run at a time in a checkpoint directory."""

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

    The lock ends with the process that holds it, however that one ends, so it never becomes stale;
    the file stays and names the holder. On a file system without locks there is only a warning.
    The wait is for a run that still saves after its launcher was killed.

    Raises:
        UserError: another process still holds it after `patience_seconds`.
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
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _log.warning(
            "%s: this file system has no locks (%s), so nothing keeps a second run away",
            *(file.name, error.strerror),
        )
    return True
