"""The log of the attempts at a run: when each began, how it ended, and when to give up."""

import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from esm1b.errors import RunFailure, Stopped, UserError
from esm1b.files import JsonLines, read_json_lines
from esm1b.pretraining.distributed.liveness import is_lost_peer
from esm1b.pretraining.metrics.metrics_file import METRICS_FILE

_log = logging.getLogger(__name__)

ATTEMPTS_FILE: Final = "attempts.jsonl"
_MOST_FAILURES: Final = 2
# A machine may go away by chance, but not so often in one interval of checkpoints.
_MOST_CUT_SHORT: Final = 5


class AttemptLog(logging.Handler):
    """Writes `attempts.jsonl`, which is append-only.

    An attempt has a line when it begins ("started"), one for each of the package's warnings, whose
    handler this is, and one for its end: "finished", "stopped" (as requested), "failed" (a failure
    of the run itself, with its message) or "lost" (another process went away). An attempt that was
    killed, or that the user's input ended, has no line for its end. Only the first process, where
    `active` is true, writes.
    """

    def __init__(self, directory: Path, *, active: bool) -> None:
        super().__init__(logging.WARNING)
        self.path = directory / ATTEMPTS_FILE
        self._active = active
        self._number = 0

    def check_progress(self, *, update: int, layout: Mapping[str, Any]) -> None:
        """Check that another attempt after `update` updates makes sense; a new layout always does.

        Raises:
            RunFailure: the last two attempts from here failed, or the last five were killed, lost a
                process or failed. An attempt that was asked to stop counts as neither. The message
                is one line that says what to remove for another attempt.
        """
        failures: dict[int, str] = {}
        cut_short: set[int] = set()
        for line in read_attempts(self.path):
            attempt, event = line["attempt"], line["event"]
            if event == "started":
                if line["update"] == update and line.get("layout") == layout:
                    cut_short.add(attempt)
                else:  # progress, or another layout
                    failures, cut_short = {}, set()
            elif event == "failed" and attempt in cut_short:
                failures[attempt] = line["message"]
            elif event in ("stopped", "finished"):
                cut_short.discard(attempt)
                failures = {} if event == "finished" else failures
        if len(failures) >= _MOST_FAILURES:
            last = list(failures.values())[-1].partition("\n")[0]
            raise RunFailure(
                f"stopped for good: {len(failures)} attempts from update {update} failed, "
                f"the last with {last!r}; remove {self.path} to try again"
            )
        if len(cut_short) >= _MOST_CUT_SHORT:
            raise RunFailure(
                f"stopped for good: {len(cut_short)} attempts from update {update} were "
                f"killed, lost a process or failed before saving anything; remove {self.path} to "
                "try again"
            )

    @contextmanager
    def attempt(self, *, update: int, updates: int, layout: Mapping[str, Any]) -> Iterator[int]:
        """Record an attempt around the block and yield its number, from 1; 0 if not `active`.

        `update` of the run's `updates` are done before it. `layout` is its layout on the hardware,
        as JSON.
        """
        if self._active:
            # the metrics have numbers too, and stay when somebody removes the log
            lines = [*read_attempts(self.path), *read_attempts(self.path.with_name(METRICS_FILE))]
            self._number = 1 + max((line["attempt"] for line in lines), default=0)
        process = {"process": os.getpid(), "host": platform.node()}
        self._write("started", update=update, updates=updates, layout=dict(layout), **process)
        package = logging.getLogger("esm1b")
        package.addHandler(self)
        try:
            yield self._number
        except BaseException as error:
            if isinstance(error, Stopped):
                self._write("stopped", message=str(error))
            elif is_lost_peer(error):
                self._write("lost", message=str(error))
            elif isinstance(error, Exception) and not isinstance(error, UserError):
                self.failed(f"{type(error).__name__}: {error}")
            raise
        finally:
            package.removeHandler(self)
        self._write("finished")

    def failed(self, message: str) -> None:
        """Record that the attempt under way, if any, ends with a failure of the run itself."""
        if self._number > 0:
            self._write("failed", message=message)

    def emit(self, record: logging.LogRecord) -> None:
        """Record a warning, unless it is about the log itself."""
        if record.name != __name__:
            self._write("warning", message=record.getMessage())

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


def read_attempts(path: Path) -> list[dict[str, Any]]:
    """Return the lines of an `attempts.jsonl`, torn ones left out; none if there is no file."""
    return read_json_lines(path, having="attempt") if path.exists() else []
