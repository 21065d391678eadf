"""A run that is started again and again by the same command, and what must hold of it meanwhile."""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from esm1b.errors import UserError
from esm1b.pretraining.attempt_log import read_attempts
from esm1b.pretraining.checkpoints.files import (
    StoredFile,
    check_file,
    read_state,
    saved_checkpoints,
)
from esm1b.pretraining.metrics.metrics_file import read_metrics
from tests.pretraining.faults.injection import PATCH, Injection, begun
from tests.pretraining.fork_server import ForkServer, LaunchedRun

__all__ = ["INTERVAL", "KEPT", "UPDATES", "Deviation", "Expected", "Start", "Subject", "Trial"]

UPDATES: Final = 40
INTERVAL: Final = 5
"""Updates from checkpoint to checkpoint."""
KEPT: Final = 2

_POLL_SECONDS: Final = 0.002
# How long the others of a dead process may take to end.
_PROMISED_SECONDS: Final = 120.0
# What a launcher gives the others of a process that died before they knew of each other.
_LAUNCHERS_PATIENCE: Final = 15.0


class Deviation(Exception):  # noqa: N818 (of a run, not an error of the campaign)
    """A run did not do what it promises."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The run that trials are made with.

    Attributes:
        server: starts it.
        configuration: its file.
        tokens: what it trains on.
        processes: of the run.
        zero_stage: of DeepSpeed.
        shapes: of the parameters, by name.
    """

    server: ForkServer
    configuration: Path
    tokens: Path
    processes: int
    zero_stage: int
    shapes: Mapping[str, Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the run comes to when nothing disturbs it.

    Attributes:
        weights: the file of the model.
        losses: of every update.
        files: of the last checkpoint.
        update_seconds: from one update to the next, on average, what is saved included.
    """

    weights: bytes
    losses: list[float]
    files: dict[str, StoredFile]
    update_seconds: float


class Trial:
    """One directory of checkpoints and the starts of the run on it.

    Args:
        subject: the run.
        folder: for all it writes; made anew.
        expected: what it must come to; None for the run that tells.
    """

    def __init__(self, subject: Subject, folder: Path, expected: Expected | None = None) -> None:
        folder.mkdir(parents=True)
        self.subject = subject
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self.model = folder / "model"
        self._expected = expected
        self._starts = 0
        self._damaged: set[Path] = set()
        self._provoked = 0

    @property
    def expected(self) -> Expected:
        """What it must come to."""
        assert self._expected is not None
        return self._expected

    def start(self, *, watchdog_seconds: int | None = None, **faults: Any) -> "Start":
        """Give the command; `faults` as in `Injection`."""
        self._starts += 1
        folder = self.folder / "starts" / f"{self._starts:02d}"
        options = [] if watchdog_seconds is None else [f"--hang-limit={watchdog_seconds}"]
        return Start(self, folder, Injection(
            checkpoints=str(self.checkpoints), folder=str(folder), **faults
        ), options)  # fmt: skip

    def newest(self) -> int:
        """Return the update of the newest whole checkpoint; 0 without one."""
        whole = [update for update, path in self._saved().items() if self._is_whole(path)]
        return max(whole, default=0)

    def latest(self) -> int:
        """Return the update of the latest checkpoint, whole or not; 0 without one."""
        return max(self._saved(), default=0)

    def unfinished(self) -> int | None:
        """Return the update of the save that is under way or was cut short; None without one.

        Raises:
            Deviation: there are two.
        """
        found = sorted(path.name for path in self.checkpoints.glob(".update-*.partial"))
        if len(found) > 1:
            raise Deviation(f"saves at the same time: {found}")
        return int(found[0].split("-")[1].split(".")[0]) if found else None

    def whole(self) -> list[Path]:
        """Return the checkpoints that are whole, the oldest first."""
        return [path for path in self._saved().values() if self._is_whole(path)]

    def attempts(self) -> list[dict[str, Any]]:
        """Return what the run noted of its attempts."""
        return read_attempts(self.checkpoints / "attempts.jsonl")

    def damaged(self, path: Path) -> None:
        """Take note that the checkpoint at `path` is damaged."""
        if self._is_whole(path):
            raise Deviation(f"{path}: was damaged, and counts as whole")
        self._damaged.add(path)

    def failure_is_provoked(self) -> None:
        """Take note that the last start failed as it had to."""
        self._provoked += 1

    def check(self) -> None:
        """Check what must hold after every start.

        Raises:
            Deviation: a checkpoint counts and is not whole, an update had another loss, or a
                failure was none that had been provoked.
        """
        self._damaged = {path for path in self._damaged if path.exists()}
        for path in self._saved().values():
            if self._is_whole(path):
                self._damaged.discard(path)
            elif path not in self._damaged:
                raise Deviation(f"{path}: counts as a checkpoint and is not whole")
        for update, loss in self._losses().items():
            if loss != self.expected.losses[update - 1]:
                raise Deviation(
                    f"update {update}: loss {loss!r}; expected {self.expected.losses[update - 1]!r}"
                )
        lines = self.attempts()
        failed = {line["attempt"]: line["message"] for line in lines if line["event"] == "failed"}
        if len(failed) != self._provoked:
            raise Deviation(f"failures {failed}; expected {self._provoked}")

    def check_end(self) -> None:
        """Check what the run came to.

        Raises:
            Deviation: not what it comes to when nothing disturbs it.
        """
        self.check()
        if (self.model / "model.safetensors").read_bytes() != self.expected.weights:
            raise Deviation("the weights are not those of the undisturbed run")
        if list(self._losses().values()) != self.expected.losses:
            raise Deviation("the losses are not those of the undisturbed run")
        saved = self._saved()
        if read_state(saved[UPDATES]).files != self.expected.files:
            raise Deviation("the last checkpoint is not that of the undisturbed run")
        rest = sorted(path.name for path in self.checkpoints.glob(".*"))
        if rest or len(saved) != KEPT:
            raise Deviation(f"left behind: {rest}, {sorted(map(str, saved.values()))}")

    def stops_for_good(self) -> bool:
        """Return whether the last two attempts that went on from here have failed."""
        newest = self.newest()
        failed: set[int] = set()
        begins_here = False
        for line in self.attempts():
            begins_here = line.get("update", newest if begins_here else None) == newest
            if line["event"] == "finished" or not begins_here:
                failed.clear()
            elif line["event"] == "failed":
                failed.add(line["attempt"])
        return len(failed) >= 2

    def remove_what_stops_for_good(self) -> None:
        """Remove the record of attempts, as the run says."""
        (self.checkpoints / "attempts.jsonl").unlink()
        self._provoked = 0

    def _saved(self) -> dict[int, Path]:
        return saved_checkpoints(self.checkpoints) if self.checkpoints.exists() else {}

    def _is_whole(self, path: Path) -> bool:
        try:
            state = read_state(path)
            for name, stored in state.files.items():
                check_file(path / name, stored, self.subject.shapes)
        except UserError:
            return False
        there = Counter(name for stored in state.files.values() for name in stored.names)
        return there == Counter(dict.fromkeys(self.subject.shapes, 3))

    def _losses(self) -> dict[int, float]:
        path = self.checkpoints / "metrics.jsonl"
        if not path.exists():
            return {}
        return {line["update"]: line["loss"] for line in read_metrics(path) if "loss" in line}


class Start:
    """One start of a trial's run, under way or over.

    Args:
        trial: it belongs to.
        folder: for what its processes write to stderr.
        injection: what goes wrong inside.
        options: further ones of the command line.

    Attributes:
        first: the update that it must go on from.
        run: its processes.
        statuses: with which they ended.
        seconds: from the last fault until they had ended.
    """

    def __init__(
        self, trial: Trial, folder: Path, injection: Injection, options: Sequence[str]
    ) -> None:
        self.trial = trial
        self.folder = folder
        self.first = trial.newest()
        self._is_slow = injection.write_seconds > 0
        self.statuses: list[int] = []
        self.seconds = 0.0
        self._metrics = trial.checkpoints / "metrics.jsonl"
        self._offset = self._metrics.stat().st_size if self._metrics.exists() else 0
        self._noted = len(trial.attempts())
        subject = trial.subject
        self.run: LaunchedRun = subject.server.start(
            folder,
            [
                "pretrain",
                str(subject.configuration),
                f"--tokens={subject.tokens}",
                f"--checkpoints={trial.checkpoints}",
                f"--output={trial.model}",
                "--micro-batch-tokens=800",
                f"--zero-stage={subject.zero_stage}",
                "--device=cpu",
                *options,
            ],
            processes=subject.processes,
            environment=injection.environment(),
            patch=PATCH,
        )

    def updates(self) -> int | None:
        """Return the last update that this start logged; None before the first one."""
        if not self._metrics.exists():
            return None
        with self._metrics.open("rb") as file:
            file.seek(self._offset)
            lines = file.read().splitlines()
        logged = list(_updates(lines))
        return max(logged, default=None)

    def has_begun(self) -> bool:
        """Return whether every process has begun with the run."""
        return all(
            begun(self.folder, rank).exists() for rank in range(self.trial.subject.processes)
        )

    def is_guarded(self) -> bool:
        """Return whether the watchdogs of this start watch."""
        return any(line["event"] == "started" for line in self.trial.attempts()[self._noted :])

    def is_finishing(self) -> bool:
        """Return whether there is nothing left to train."""
        return self.first == UPDATES or self.updates() == UPDATES

    def is_saving(self) -> bool:
        """Return whether a checkpoint is being written.

        Raises:
            Deviation: two are.
        """
        return self.trial.unfinished() is not None

    def has_ended(self, rank: int) -> bool:
        """Return whether one process has ended, with the launcher still there."""
        status = self.folder / f"rank-{rank}.status"
        return status.exists() and bool(status.read_text())

    def comes_to(self, condition: Callable[[], bool], *, seconds: float = 60) -> bool:
        """Wait until something holds; return False if the run ended before.

        Raises:
            Deviation: neither came about.
        """
        last = time.monotonic() + seconds
        while time.monotonic() < last:
            if condition():
                return True
            if self.run.is_over():
                return condition()
            time.sleep(_POLL_SECONDS)
        raise Deviation(f"nothing came about within {seconds:g} s\n{self.run.errors()}")

    def end(self, *, seconds: float = _PROMISED_SECONDS) -> list[int]:
        """Wait until all processes have ended and return their statuses.

        Raises:
            Deviation: some have not ended within the time.
        """
        began = time.monotonic()
        try:
            self.statuses = self.run.wait(seconds)
        except TimeoutError as error:
            raise Deviation(str(error)) from error
        self.seconds = time.monotonic() - began
        return self.statuses

    def end_with_launcher(self) -> bool:
        """Wait as a launcher does that ends the others of a process that died, if need be.

        For processes that do not watch each other yet. Return whether they had to be ended.
        """
        last = time.monotonic() + _LAUNCHERS_PATIENCE
        while time.monotonic() < last and not self.run.is_over():
            time.sleep(_POLL_SECONDS)
        has_to = not self.run.is_over()
        if has_to:
            self.run.signal(signal.SIGKILL)
        self.end()
        return has_to

    def require(self, *allowed: list[int]) -> None:
        """Check the statuses of a start that has ended.

        Raises:
            Deviation: they are none of those that are allowed.
        """
        if self.statuses not in allowed:
            raise self.deviation(f"statuses {self.statuses}; expected {allowed}")

    def require_text(self, text: str) -> None:
        """Check that the processes wrote something to stderr.

        Raises:
            Deviation: they did not.
        """
        if text not in self.run.errors():
            raise self.deviation(f"the log does not say {text!r}")

    def check(self, *, saves_fail: bool = False) -> None:
        """Check what must hold of a start that has ended, and of what is on the disk.

        Args:
            saves_fail: whether saves were made to fail, so that more may be lost.

        Raises:
            Deviation: it does not hold.
        """
        try:
            self.trial.check()
        except Deviation as error:
            raise self.deviation(str(error)) from error
        for line in self.trial.attempts()[self._noted :]:
            if line["event"] == "started" and line["update"] != self.first:
                raise self.deviation(f"it went on from {line['update']}; expected {self.first}")
        # A save that takes longer than the interval, as with a busy disk, delays the next one.
        unfinished = self.trial.unfinished()
        lost = (
            (self.updates() or 0) - 2 * INTERVAL
            if unfinished is None
            else unfinished - 4 * INTERVAL
        )
        least = max(self.first, lost)
        if self.trial.newest() < least and not saves_fail and not self._is_slow:
            raise self.deviation(
                f"the newest checkpoint is of update {self.trial.newest()}; expected {least} or "
                f"later: the last update was {self.updates()}"
            )

    def deviation(self, text: str) -> Deviation:
        """Return a deviation of this start, with what its processes wrote to stderr."""
        return Deviation(f"{self.folder}: {text}\n{self.run.errors()}")


def _updates(lines: list[bytes]) -> Iterator[int]:
    for line in lines:
        try:
            yield json.loads(line)["update"]
        except (ValueError, TypeError, KeyError):
            continue
