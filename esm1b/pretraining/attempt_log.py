"""The log of the attempts at a run: when each began and how it ended."""

import logging
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from esm1b.errors import Stopped, UserError
from esm1b.files import JsonLines, read_json_lines
from esm1b.pretraining.distributed.liveness import is_lost_peer
from esm1b.pretraining.metrics.metrics_file import METRICS_FILE

_log = logging.getLogger(__name__)

ATTEMPTS_FILE: Final = "attempts.jsonl"


class AttemptLog:
    """Writes `attempts.jsonl`, which is append-only.

    An attempt has a line when it begins ("started"), one for each of its warnings, and one for its
    end: "finished", "stopped" (as requested), "failed" (a failure of the run itself, with its
    message) or "lost" (another process went away). An attempt that was killed, or that the user's
    input ended, has no line for its end.

    Args:
        directory: checkpoint directory.
        active: True in the first process, the only one that writes.

    Attributes:
        path: path of the file.
    """

    def __init__(self, directory: Path, *, active: bool) -> None:
        self.path = directory / ATTEMPTS_FILE
        self._active = active
        self._number = 0

    @contextmanager
    def attempt(self, *, update: int, updates: int, layout: Mapping[str, Any]) -> Iterator[int]:
        """Record an attempt around the block and yield its number, from 1; 0 if not `active`.

        Args:
            update: number of updates done before the attempt.
            updates: number of updates of the whole run.
            layout: layout of the attempt on the hardware, as JSON.
        """
        self._begin(update=update, updates=updates, layout=dict(layout))
        try:
            with self._recorded_warnings():
                yield self._number
        except BaseException as error:
            if isinstance(error, Stopped):
                self._write("stopped", message=str(error))
            elif is_lost_peer(error):
                self._write("lost", message=str(error))
            elif isinstance(error, Exception) and not isinstance(error, UserError):
                self.failed(f"{type(error).__name__}: {error}")
            raise
        self._write("finished")

    def failed(self, message: str) -> None:
        """Record that the attempt under way, if any, ends with a failure of the run itself."""
        if self._number > 0:
            self._write("failed", message=message)

    @contextmanager
    def _recorded_warnings(self) -> Iterator[None]:
        """Record what the package warns of within the block."""
        package = logging.getLogger("esm1b")
        handler = _WarningHandler(self._write)
        package.addHandler(handler)
        try:
            yield
        finally:
            package.removeHandler(handler)

    def _begin(self, **details: Any) -> None:
        if not self._active:
            return
        # the metrics have numbers too, and stay when somebody removes the log
        earlier = [*read_attempts(self.path), *read_attempts(self.path.with_name(METRICS_FILE))]
        self._number = 1 + max((line["attempt"] for line in earlier), default=0)
        process = {"process": os.getpid(), "host": platform.node()}
        self._write("started", **details, **process)

    def _write(self, event: str, **details: Any) -> None:
        if not self._active:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        line = {"attempt": self._number, "event": event, "time": now, **details}
        try:
            with closing(JsonLines(self.path)) as lines:
                lines.write(line)
                lines.sync()
        except OSError as error:
            # The cause of the attempt's end, such as the full disk itself, matters more.
            _log.warning("%s: %s; not recorded: attempt %s", self.path, error.strerror, event)


class _WarningHandler(logging.Handler):
    """Passes warnings and errors on to `write`, except those about the log itself."""

    def __init__(self, write: Callable[..., None]) -> None:
        super().__init__(logging.WARNING)
        self._pass_on = write
        self.addFilter(lambda record: record.name != __name__)

    def emit(self, record: logging.LogRecord) -> None:
        self._pass_on("warning", message=record.getMessage())


def read_attempts(path: Path) -> list[dict[str, Any]]:
    """Return the lines of an `attempts.jsonl`, torn ones left out; none if there is no file."""
    return read_json_lines(path, having="attempt") if path.exists() else []
