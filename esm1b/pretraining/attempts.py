"""The attempts at a run: how each ended, so that one that fails again and again is stopped."""

import json
import logging
import os
import platform
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from esm1b.errors import RunFailure, Stopped, UserError

__all__ = ["Attempts", "NoProgress", "is_lost_peer", "read_attempts"]

_log = logging.getLogger(__name__)

_MOST_FAILURES: Final = 2
# A machine may go away by chance, but not so often in one interval of checkpoints.
_MOST_ENDED: Final = 5
# What gloo, nccl and the store of torch 2.13 say when the other side of a connection is gone or
# does not answer. Their exceptions have no class in common but RuntimeError, which tells nothing.
_SPEAKERS: Final = ("gloo/transport", "pair closure", "nccl", "NCCL", "DistNetwork", "DistStore")
_LOST_PEER: Final = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection was likely closed",
    "Broken pipe",
    "Timed out waiting",
    "timed out",
    "Application timeout caused pair closure",
    "ncclRemoteError",
    "ncclSystemError",
    "NCCL communicator was aborted",
    "Watchdog caught collective operation timeout",
    "remote process exited",
)


class NoProgress(RunFailure):
    """The attempts before failed where this one would begin: exit status 1.

    The message is one line that says what to remove for another attempt.
    """


class Attempts:
    """One attempt, recorded in `attempts.jsonl`; a context manager around the updates.

    `check` first, in the first process, and let the others know what it said.

    The file is append-only. An attempt has a line when it begins ("started") and one that says how
    it ended: "finished", "stopped" (as asked), "failed" (a failure of this run's own making, with
    its message) or "lost" (another process went away). One that was killed, or that the user's
    input ended, has no second line.

    Args:
        directory: of the checkpoints.
        update: from which this attempt goes on.
        active: whether this process writes; only the first one does.
    """

    def __init__(self, directory: Path, *, update: int, active: bool) -> None:
        self._path = directory / "attempts.jsonl"
        self._update = update
        self._active = active
        self._number = 0

    def check(self) -> None:
        """Check that another attempt makes sense.

        Raises:
            NoProgress: two attempts failed that went on from this very update, or five ended
                without any progress, killed and such that lost a process included. An attempt that
                was asked to stop counts as neither.
        """
        lines = read_attempts(self._path)
        failures = _failures_from(self._update, lines)
        if len(failures) >= _MOST_FAILURES:
            last = failures[-1].partition("\n")[0]
            raise NoProgress(
                f"stopped for good: {len(failures)} attempts failed that went on from update "
                f"{self._update}, the last with {last!r}; remove {self._path} to try again"
            )
        ended = _ended_from(self._update, lines)
        if ended >= _MOST_ENDED:
            raise NoProgress(
                f"stopped for good: {ended} attempts were killed, lost a process or failed that "
                f"went on from update {self._update}, before anything was saved; remove "
                f"{self._path} to try again"
            )

    def __enter__(self) -> Self:
        if self._active:
            earlier = read_attempts(self._path)
            self._number = 1 + max((line["attempt"] for line in earlier), default=0)
            self._write("started", update=self._update, process=os.getpid(), host=platform.node())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._write("finished")
        elif isinstance(error, Stopped):
            self._write("stopped", message=str(error))
        elif is_lost_peer(error):
            self._write("lost", message=str(error))
        elif isinstance(error, Exception) and not isinstance(error, UserError):
            self.failed(f"{type(error).__name__}: {error}")

    def failed(self, message: str) -> None:
        """Record that this attempt ends with a failure of the run's own making.

        For failures of other processes; an error that ends the block is recorded without.
        """
        if self._number > 0:
            self._write("failed", message=message)

    def _write(self, event: str, **details: Any) -> None:
        if not self._active:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        line = {"attempt": self._number, "event": event, "time": now, **details}
        try:
            with self._path.open("ab+") as file:
                is_torn = file.tell() > 0 and file.seek(-1, os.SEEK_END) and file.read(1) != b"\n"
                file.write(b"\n" * bool(is_torn) + json.dumps(line).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            # What ended the attempt matters more, such as the full disk itself.
            _log.warning("%s: %s; not recorded: attempt %s", self._path, error.strerror, event)


def read_attempts(path: Path) -> list[dict[str, Any]]:
    """Return the lines of an `attempts.jsonl`, a torn one left out; none where there is no file."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "attempt" in line:
            lines.append(line)
    return lines


def is_lost_peer(error: BaseException) -> bool:
    """Return whether `error` says that another process went away or does not answer.

    Looks at what gloo, nccl and torch's store say, and at the errors that `error` came from.
    """
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, RuntimeError) and (
        any(speaker in text for speaker in _SPEAKERS)
        and any(phrase in text for phrase in _LOST_PEER)
    ):
        return True
    origin = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return origin is not None and is_lost_peer(origin)


def _failures_from(update: int, lines: list[dict[str, Any]]) -> list[str]:
    """Return the messages of the last attempts that began at `update` and failed."""
    failures: dict[int, str] = {}
    begins_here = False
    for line in lines:
        if line["event"] == "started":
            begins_here = line["update"] == update
        if not begins_here or line["event"] == "finished":
            failures = {}
        elif line["event"] == "failed":
            failures[line["attempt"]] = line["message"]
    return list(failures.values())


def _ended_from(update: int, lines: list[dict[str, Any]]) -> int:
    """Return how many of the last attempts began at `update` and neither stopped nor finished."""
    ended: set[int] = set()
    for line in lines:
        if line["event"] == "started" and line["update"] != update:
            ended = set()
        elif line["event"] == "started":
            ended.add(line["attempt"])
        elif line["event"] in ("stopped", "finished"):
            ended.discard(line["attempt"])
    return len(ended)
