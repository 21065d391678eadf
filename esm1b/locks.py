"""Locks between processes, of one machine or of several on a shared file system."""

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from esm1b.errors import UserError
from esm1b.scheduler import this_process

_log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.2
# Lustre mounted without flock, NFS without its lock daemon.
_NO_LOCKS: Final = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
# A new holder writes its name this long, at most, after it has the lock.
_NAMED_AFTER_SECONDS: Final = 0.5


@contextmanager
def exclusive_lock(
    file: Path, *, path: Path, doing: str, patience_seconds: float = 0, keep: bool = False
) -> Iterator[bool]:
    """Hold `file` as the lock of `path`, and yield whether it keeps other processes away.

    The lock ends with the process that holds it, however that one ends, so it never becomes stale;
    the file names the holder. On a file system without locks there is only a warning.

    Args:
        file: lock file, made if it is missing.
        path: path for messages.
        doing: action of the holder, for messages: "is training here".
        patience_seconds: time to wait for another holder to end.
        keep: True to leave the file when the lock is released.

    Raises:
        UserError: another process still holds the lock after `patience_seconds`.
        OSError: the file cannot be made or locked.
    """
    until = time.monotonic() + patience_seconds
    is_told = False
    while (locked := _open_locked(file)) is None:
        holder = _holder(file)
        if time.monotonic() >= until:
            raise UserError(
                f"{path}: another process {doing} ({holder}); expected to be the only one"
            )
        if not is_told:
            _log.info("%s: waiting for %s, which %s, to end", path, holder, doing)
            is_told = True
        time.sleep(_POLL_SECONDS)
    opened, is_exclusive = locked
    with opened:
        try:
            opened.truncate(0)
            opened.write(f"{this_process()}\n".encode())
            yield is_exclusive
        finally:
            if not keep:
                with suppress(OSError):  # while it is still locked, so it is nobody else's
                    file.unlink()


def _open_locked(file: Path) -> tuple[IO[bytes], bool] | None:
    """Return the file, locked if the file system has locks; None if another process holds it."""
    while True:
        with ExitStack() as opened:
            lock = opened.enter_context(file.open("a+b", buffering=0))
            try:
                is_exclusive = _flock(lock)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno == errno.ESTALE:  # removed through another client of NFS
                    continue
                raise
            # the holder before may have removed the file between the opening and the locking
            if not is_exclusive or _is_at(lock, file):
                opened.pop_all()
                return lock, is_exclusive


def _flock(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _log.warning(
            "%s: this file system has no locks (%s), so nothing keeps a second run away",
            *(lock.name, error.strerror),
        )
        return False
    return True


def _is_at(lock: IO[bytes], file: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(lock.fileno()), file.stat())
    return False


def _holder(file: Path) -> str:
    until = time.monotonic() + _NAMED_AFTER_SECONDS
    while time.monotonic() < until:
        with suppress(OSError):
            if name := file.read_text(encoding="utf-8", errors="replace").strip():
                return name
        time.sleep(_POLL_SECONDS / 10)
    return "unknown"
