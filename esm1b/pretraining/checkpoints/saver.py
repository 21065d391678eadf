"""When a run saves, which checkpoints it keeps, and what happens after a save that fails."""

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from esm1b.config import PretrainingConfig
from esm1b.errors import RunFailure, UserError, one_line
from esm1b.pretraining.checkpoints.files import checkpoint_path, remove, saved_checkpoints
from esm1b.pretraining.checkpoints.save import Save, SaveError
from esm1b.pretraining.distributed.collectives import ActionError, on_first
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.distributed.rendezvous import in_thread
from esm1b.pretraining.engine.deepspeed_engine import Engine
from esm1b.pretraining.skipped_updates import SkippedUpdate

_log = logging.getLogger(__name__)

# Saves in a row that fail before the last failure ends the run.
_MOST_FAILURES: Final = 3
# A failed save is tried again after this share of the interval.
_RETRIES_PER_INTERVAL: Final = 10
# A float32 weight and its two moments.
_BYTES_PER_PARAMETER: Final = 12
_BYTES_PER_WEIGHT: Final = 4
# Upper bound, roughly, of the names, shapes and digests of a checkpoint.
_BYTES_BESIDES: Final = 2**20


@dataclass
class Saver:
    """Saves at intervals; after a failure training continues and the save is tried again.

    One save at a time is under way behind the updates: one that falls due meanwhile begins after
    the next update. Those of milestones and of the end are waited for.

    Attributes:
        seconds: longest time that a save took, without the updates in between; None before one.

    Args:
        minutes: time from save to save, by the clock of the first process; None for no limit.
        export: function that writes the model directory of the engine's weights; collective.
    """

    directory: Path
    recipe: PretrainingConfig
    engine: Engine
    place: Place
    export: Callable[[Path], None]
    minutes: float | None = None
    seconds: float | None = field(default=None, init=False)
    _under_way: Save | None = field(default=None, init=False)
    _removing: list[Future[None]] = field(default_factory=list, init=False)
    _begun: int = field(default=0, init=False)
    _begun_at: float = field(default_factory=lambda: time.monotonic(), init=False)
    _has_asked: bool = field(default=False, init=False)
    _failures: int = field(default=0, init=False)
    _next: int | None = field(default=None, init=False)

    def is_time(self) -> bool:
        """Return, once, whether by this process's clock all should save after the next updates."""
        if self.minutes is None or self._under_way or self._has_asked:
            return False
        self._has_asked = time.monotonic() - self._begun_at >= 60 * self.minutes
        return self._has_asked

    def is_written(self) -> bool:
        """Return whether this process has written its share of the save under way, or failed to."""
        return self._under_way is not None and self._under_way.is_written()

    def is_due(self, updates: int, *, is_asked: bool = False) -> bool:
        """Return whether to save after `updates` updates; the same in all processes.

        `is_asked` says whether the clock asks for it.
        """
        if updates == self.recipe.updates or is_milestone(updates, self.recipe.milestone_interval):
            return True
        is_wanted = updates == self._next or updates % self.recipe.checkpoint_interval == 0
        return self._under_way is None and (is_wanted or is_asked)

    def save(self, updates: int, skipped: list[SkippedUpdate], *, is_last: bool = False) -> None:
        """Begin a checkpoint, and wait for it if it is the last or that of a milestone. Collective.

        The last save of a run is tried again at once when it fails.

        Raises:
            SaveError: too many saves in a row have failed.
        """
        self.finish(updates)
        wait(self._removing)
        is_awaited = is_last or is_milestone(updates, self.recipe.milestone_interval)
        self._begun, self._begun_at = updates, time.monotonic()
        self._has_asked, self._next = False, None
        while True:
            with self._counting_failures(updates):
                self._under_way = Save.begin(
                    self.directory, self.engine, updates=updates, skipped=skipped, place=self.place
                )
            if is_awaited:
                self.finish(updates)
            if not (is_last and self._failures):
                return

    def finish(self, updates: int) -> None:
        """Commit the save under way, if any, and let a thread remove old ones. Collective.

        Raises:
            SaveError: it has failed, and too many in a row before it.
        """
        save, self._under_way = self._under_way, None
        if save is None:
            return
        interval = self.recipe.checkpoint_interval
        if updates // interval > self._begun // interval:  # another fell due meanwhile
            self._next = updates + 1
        with self._counting_failures(updates):
            self.seconds = max(save.commit(), self.seconds or 0.0) or None
            self._failures = 0
            self.remove_old()

    def remove_old(self) -> None:
        """Let a thread remove the checkpoints that are not kept: gigabytes take it seconds.

        Call it when the newest is known to be whole.
        """
        if self.place.rank == 0:
            self._removing = [in_thread(self._remove_old)]

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Let no thread write or remove anything after the block.

        Before a failure that all processes share, the save under way is finished. After any other
        error it stays unfinished, which the next start removes.
        """
        try:
            yield
        except RunFailure:
            try:
                self.finish(self._begun)
            except SaveError as error:
                if self.place.rank == 0:
                    _log.warning("%s", error)
            raise
        finally:
            wait(self._removing)
            if self._under_way is not None:
                self._under_way.wait()

    def export_milestone(self, updates: int) -> None:
        """Write the model directory of a milestone that has none yet; a failure is only logged."""
        if not is_milestone(updates, self.recipe.milestone_interval):
            return
        path = milestone_path(self.directory, updates)
        if on_first(path.exists, self.place):
            return
        try:
            self.export(path)
        except ActionError as error:
            if self.place.rank == 0:
                _log.warning("%s: not written: %s; the run continues", path, error)

    @contextmanager
    def _counting_failures(self, updates: int) -> Iterator[None]:
        """Log a failure and let another try follow; raise the last one that is allowed."""
        try:
            yield
        except SaveError as error:
            self._failures += 1
            if self._failures >= _MOST_FAILURES:
                raise
            if self.place.rank == 0:
                _log.warning("failure %d of %d: %s", self._failures, _MOST_FAILURES, error)
            retry = self.recipe.checkpoint_interval // _RETRIES_PER_INTERVAL
            self._next = updates + max(1, retry)

    def _remove_old(self) -> None:
        keep, every = self.recipe.checkpoints_kept, self.recipe.milestone_interval
        try:
            remove_old(self.directory, keep=keep, every=every)
        except OSError as error:  # the new checkpoint is safe
            _log.warning("an old checkpoint was not removed: %s", one_line(error))


def remove_old(directory: Path, *, keep: int, every: int | None) -> None:
    """Remove the checkpoints that are not `kept`.

    Call it after a save, which read back what it wrote, so that a whole one is kept.
    """
    saved = saved_checkpoints(directory)
    for updates in sorted(saved.keys() - kept(saved, directory, keep=keep, every=every)):
        remove(saved[updates])


def kept(updates: Iterable[int], directory: Path, *, keep: int, every: int | None) -> set[int]:
    """Return which of the checkpoints after these updates stay: the newest and milestones.

    A milestone is the checkpoint of each `every`-th update, and any with a model directory: `every`
    may have been different before.
    """
    ordered = sorted(updates)
    return {*ordered[-keep:], *(each for each in ordered if _stays(directory, each, every))}


def is_milestone(updates: int, every: int | None) -> bool:
    """Return whether the checkpoint after `updates` updates is kept for good."""
    return every is not None and updates > 0 and updates % every == 0


def milestone_path(directory: Path, updates: int) -> Path:
    """Return the model directory of the milestone after `updates` updates."""
    return checkpoint_path(directory / "milestones", updates)


def _stays(directory: Path, updates: int, every: int | None) -> bool:
    return is_milestone(updates, every) or milestone_path(directory, updates).exists()


def checkpoint_bytes(parameters: int) -> int:
    """Return the size of a checkpoint, rounded up."""
    return _BYTES_PER_PARAMETER * parameters + _BYTES_BESIDES


def check_free_space(
    directory: Path, recipe: PretrainingConfig, *, parameters: int, has_mirror: bool = False
) -> None:
    """Check that there is room for the checkpoints that are kept, existing ones included.

    A mirror may be copying one more, whose files stay on the disk until then. Milestones fill the
    disk over weeks, and room may be made meanwhile, so for those that do not fit there is only a
    warning.

    Raises:
        UserError: there is too little.
    """
    every = recipe.milestone_interval
    size = checkpoint_bytes(parameters)
    saved = saved_checkpoints(directory)
    passing = [updates for updates in saved if not _stays(directory, updates, every)]
    at_once = 1 + has_mirror  # the next one is written first
    missing = max(recipe.checkpoints_kept + at_once - len(passing), at_once)
    free = shutil.disk_usage(directory).free
    if free < missing * size:
        raise UserError(
            f"{directory}: {free:,} bytes are free; expected {missing * size:,} for {missing} more "
            f"checkpoints of {size:,} bytes, or fewer pretraining.checkpoints_kept"
        )
    if every is not None:
        milestones = recipe.updates // every - max(saved, default=0) // every
        needed = missing * size + milestones * (size + _BYTES_PER_WEIGHT * parameters)
        if free < needed:
            _log.warning(
                f"{directory}: {free:,} bytes are free, and {needed:,} needed for the {milestones} "
                "milestones to come; make room, or raise pretraining.milestone_interval"
            )
