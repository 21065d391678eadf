"""The log of the attempts at a run: when each began, how it ended, and when to give up."""

import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from esm1b.errors import RunFailure, Stopped, StoppedForGood, UserError, one_line
from esm1b.files import JsonLines, read_json_lines
from esm1b.pretraining.distributed.liveness import is_lost_peer
from esm1b.pretraining.distributed.watchdog import Verdict
from esm1b.pretraining.metrics.metrics_file import METRICS_FILE
from esm1b.scheduler import job_name

_log = logging.getLogger(__name__)

ATTEMPTS_FILE: Final = "attempts.jsonl"
_MOST_FAILURES: Final = 2
# A machine may go away by chance, but not so often in one interval of checkpoints.
_MOST_CUT_SHORT: Final = 5
_NO_WORD: Final = "no process could say why: all were killed at once, or the input was invalid"
# Between two processes that look whether another has written the line.
_TURN_SECONDS: Final = 0.02
_LONGEST_TURN_SECONDS: Final = 2.0


class AttemptLog(logging.Handler):
    """Writes `attempts.jsonl`, which is append-only.

    An attempt has a line when it begins ("started", with its job and nodes), one for each of the
    package's warnings, whose handler this is, and one for its end: "finished", "stopped" (as
    requested), "failed" (a failure of the run itself) or "lost" (another process went away), with
    the message and the ranks and nodes at fault. An attempt that was killed as a whole, or that the
    user's input ended, gets that line when the next one begins. Only the first process writes, or
    where that one is at fault, the others.
    """

    def __init__(self, directory: Path, *, rank: int) -> None:
        super().__init__(logging.WARNING)
        self.path = directory / ATTEMPTS_FILE
        self._rank = rank
        self._number = 0
        self._loss: str | None = None

    def next_attempt(self, *, update: int, layout: Mapping[str, Any]) -> int:
        """Return the number of an attempt after `update` updates, from 1, if it makes sense.

        A new layout always does.

        Raises:
            StoppedForGood: the last two attempts from here failed, or the last five were killed,
                lost a process or failed. An attempt that was asked to stop counts as neither. The
                message is one line that says what to remove for another attempt.
        """
        failures: dict[int, str] = {}
        cut_short: set[int] = set()
        attempts = read_attempts(self.path)
        for line in attempts:
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
            raise StoppedForGood(
                f"stopped for good: {len(failures)} attempts from update {update} failed, "
                f"the last with {last!r}; remove {self.path} to try again"
            )
        if len(cut_short) >= _MOST_CUT_SHORT:
            raise StoppedForGood(
                f"stopped for good: {len(cut_short)} attempts from update {update} were "
                f"killed, lost a process or failed before saving anything; remove {self.path} to "
                "try again"
            )
        # the metrics have numbers too, and stay when somebody removes the log
        lines = [*attempts, *read_attempts(self.path.with_name(METRICS_FILE))]
        return 1 + max((line["attempt"] for line in lines), default=0)

    @contextmanager
    def attempt(
        self,
        number: int,
        *,
        update: int,
        updates: int,
        layout: Mapping[str, Any],
        nodes: Sequence[str],
    ) -> Iterator[None]:
        """Record attempt `number` around the block.

        `update` of the run's `updates` are done before it. `layout` is its layout on the hardware,
        as JSON, on `nodes`.
        """
        if (last := _without_end(read_attempts(self.path))) is not None:
            self._number = last
            self._write("lost", message=_NO_WORD, **_culprits({}))
        self._number = number
        self._write(
            "started",
            update=update,
            updates=updates,
            layout=dict(layout),
            process=os.getpid(),
            host=platform.node(),
            job=job_name(os.environ),
            nodes=[*nodes],
        )
        package = logging.getLogger("esm1b")
        package.addHandler(self)
        try:
            yield
        except BaseException as error:
            if isinstance(error, Stopped):
                self._write("stopped", message=str(error))
            elif is_lost_peer(error):
                self._loss = one_line(error)
            elif isinstance(error, Exception) and not isinstance(error, UserError):
                # one that all processes raise alike names the culprit in its message, if any
                mine = {} if isinstance(error, RunFailure) else {self._rank: platform.node()}
                message = f"{type(error).__name__}: {error}"
                self._write("failed", message=message, **_culprits(mine))
            raise
        finally:
            package.removeHandler(self)
        self._write("finished")
        self._number = 0

    def judged(self, event: Verdict, message: str, hosts: Mapping[int, str]) -> None:
        """Record that the attempt under way, if any, ends because of other processes.

        Args:
            event: "failed" if one failed with its own error, else "lost".
            message: fate of each process at fault, in a line.
            hosts: node of each process at fault, by rank.
        """
        if self._rank > 0:
            # All others than rank 0 find it at fault, and one line is enough.
            time.sleep(min(_TURN_SECONDS * self._rank, _LONGEST_TURN_SECONDS))
            if any(
                line["attempt"] == self._number and line["event"] not in ("started", "warning")
                for line in read_attempts(self.path)
            ):
                return
        self._append(event, message=message, **_culprits(hosts))
        self._number = 0

    def settle(self) -> None:
        """Record that another process went away, where `judged` has not said which one.

        The error alone does not tell: it has the address of whoever closed a connection, which may
        be a process that was left alone itself.
        """
        if self._loss is not None:
            self._write("lost", message=f"another process went away, unknown which: {self._loss}")

    def emit(self, record: logging.LogRecord) -> None:
        """Record a warning, unless it is about the log itself."""
        if record.name != __name__:
            self._write("warning", message=record.getMessage())

    def _write(self, event: str, **details: Any) -> None:
        if self._rank == 0:
            self._append(event, **details)

    def _append(self, event: str, **details: Any) -> None:
        if self._number == 0:
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


def _culprits(hosts: Mapping[int, str]) -> dict[str, Any]:
    return {"ranks": [*hosts], "nodes": [*dict.fromkeys(hosts.values())]}


def _without_end(lines: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the last attempt if nothing tells how it ended."""
    events = [line for line in lines if line["event"] != "warning"]
    return events[-1]["attempt"] if events and events[-1]["event"] == "started" else None


def read_attempts(path: Path) -> list[dict[str, Any]]:
    """Return the lines of an `attempts.jsonl`, torn ones left out; none if there is no file."""
    return read_json_lines(path, having="attempt") if path.exists() else []
