"""The attempts at a run: how each ended, so that one that fails again and again is stopped."""

import logging
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from esm1b.errors import RunFailure, Stopped, UserError
from esm1b.json_lines import JsonLines, read_json_lines
from esm1b.pretraining.distributed.collectives import is_lost_peer
from esm1b.pretraining.metrics.metrics_file import METRICS_FILE

_log = logging.getLogger(__name__)

_MOST_FAILURES: Final = 2
# A machine may go away by chance, but not so often in one interval of checkpoints.
_MOST_ENDED: Final = 5


class NoProgress(RunFailure):
    """The attempts before failed where this one would begin: exit status 1.

    The message is one line that says what to remove for another attempt.
    """


class AttemptLog:
    """One attempt, recorded in `attempts.jsonl`; a context manager around the updates.

    `check` first, in the first process, and let the others know what it said.

    The file is append-only. An attempt has a line when it begins ("started") and one that says how
    it ended: "finished", "stopped" (as asked), "failed" (a failure of this run's own making, with
    its message) or "lost" (another process went away). One that was killed, or that the user's
    input ended, has no second line.

    Args:
        directory: of the checkpoints.
        update: from which this attempt goes on.
        layout: what the machine decides about it; an attempt with another layout is no repetition.
        active: whether this process writes; only the first one does.

    Attributes:
        number: of this attempt, from 1; 0 before it begins, and in processes that do not write.
    """

    def __init__(
        self, directory: Path, *, update: int, layout: Mapping[str, Any], active: bool
    ) -> None:
        self._path = directory / "attempts.jsonl"
        self._update = update
        self._active = active
        self._layout = dict(layout)
        self.number = 0

    def check(self) -> None:
        """Check that another attempt makes sense.

        Raises:
            NoProgress: two attempts failed that went on from this very update with this layout, or
                five ended without any progress, killed and such that lost a process included. An
                attempt that was asked to stop counts as neither.
        """
        lines = read_attempts(self._path)
        failures = self._failures(lines)
        if len(failures) >= _MOST_FAILURES:
            last = failures[-1].partition("\n")[0]
            raise NoProgress(
                f"stopped for good: {len(failures)} attempts failed that went on from update "
                f"{self._update}, the last with {last!r}; remove {self._path} to try again"
            )
        ended = self._ended(lines)
        if ended >= _MOST_ENDED:
            raise NoProgress(
                f"stopped for good: {ended} attempts were killed, lost a process or failed that "
                f"went on from update {self._update}, before anything was saved; remove "
                f"{self._path} to try again"
            )

    def __enter__(self) -> Self:
        if self._active:
            metrics = self._path.with_name(METRICS_FILE)  # stays where attempts were forgotten
            earlier = [*read_attempts(self._path), *read_attempts(metrics)]
            self.number = 1 + max((line["attempt"] for line in earlier), default=0)
            self._write(
                "started",
                update=self._update,
                layout=self._layout,
                process=os.getpid(),
                host=platform.node(),
            )
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
        if self.number > 0:
            self._write("failed", message=message)

    def _is_repeated_by(self, line: Mapping[str, Any]) -> bool:
        return line["update"] == self._update and line.get("layout") == self._layout

    def _failures(self, lines: list[dict[str, Any]]) -> list[str]:
        """Return the messages of the last attempts that began like this one and failed."""
        failures: dict[int, str] = {}
        begins_here = False
        for line in lines:
            if line["event"] == "started":
                begins_here = self._is_repeated_by(line)
            if not begins_here or line["event"] == "finished":
                failures = {}
            elif line["event"] == "failed":
                failures[line["attempt"]] = line["message"]
        return list(failures.values())

    def _ended(self, lines: list[dict[str, Any]]) -> int:
        """Return how many of the last attempts began like this one and were cut short."""
        ended: set[int] = set()
        for line in lines:
            if line["event"] == "started" and not self._is_repeated_by(line):
                ended = set()
            elif line["event"] == "started":
                ended.add(line["attempt"])
            elif line["event"] in ("stopped", "finished"):
                ended.discard(line["attempt"])
        return len(ended)

    def _write(self, event: str, **details: Any) -> None:
        if not self._active:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        line = {"attempt": self.number, "event": event, "time": now, **details}
        try:
            with JsonLines(self._path) as lines:
                lines.write(line)
                lines.sync()
        except OSError as error:
            # What ended the attempt matters more, such as the full disk itself.
            _log.warning("%s: %s; not recorded: attempt %s", self._path, error.strerror, event)


def read_attempts(path: Path) -> list[dict[str, Any]]:
    """Return the lines of an `attempts.jsonl`, a torn one left out; none where there is no file."""
    return read_json_lines(path, having="attempt") if path.exists() else []
