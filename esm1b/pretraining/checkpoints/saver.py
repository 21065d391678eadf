"""When a run saves, and what becomes of a save that fails."""

import logging
from pathlib import Path
from typing import Final

from esm1b.config import PretrainingConfig
from esm1b.pretraining.checkpoints import checkpoint
from esm1b.pretraining.checkpoints.checkpoint import SaveError
from esm1b.pretraining.checkpoints.retention import is_milestone, remove_old
from esm1b.pretraining.distributed.collectives import ActionError, on_first
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.engine.deepspeed_engine import Engine
from esm1b.pretraining.skipped_updates import SkippedUpdate

_log = logging.getLogger(__name__)

MOST_FAILURES: Final = 3
"""Saves in a row that may fail before the run ends with the last one's error."""

# A failed save is tried again after this share of the interval.
_RETRIES_PER_INTERVAL: Final = 10


class Saving:
    """Saves at intervals; after a failure training goes on and the save is tried again.

    Args:
        directory: of the checkpoints.
        recipe: says how often, and what is kept.
        engine: what is saved.
        place: of this process.
    """

    def __init__(
        self, directory: Path, recipe: PretrainingConfig, engine: Engine, place: Place
    ) -> None:
        self._directory = directory
        self._recipe = recipe
        self._engine = engine
        self._place = place
        self._failures = 0
        self._retry_at: int | None = None

    def is_due(self, updates: int) -> bool:
        """Return whether to save after `updates` updates; the same in all processes."""
        return (
            updates == self._recipe.updates
            or updates == self._retry_at
            or updates % self._recipe.checkpoint_interval == 0
            or is_milestone(updates, self._recipe.milestone_interval)
        )

    def save(self, updates: int, skipped: list[SkippedUpdate], *, is_last: bool = False) -> None:
        """Write a checkpoint and remove old ones. Collective.

        Args:
            updates: done.
            skipped: those of them that were skipped.
            is_last: nothing is trained after this, so a failure is tried again at once.

        Raises:
            SaveError: too many saves in a row have failed.
        """
        while True:
            try:
                checkpoint.save(
                    self._directory,
                    self._engine,
                    updates=updates,
                    skipped=skipped,
                    place=self._place,
                )
                break
            except SaveError as error:
                self._failures += 1
                if self._failures >= MOST_FAILURES:
                    raise
                if self._place.rank == 0:
                    _log.warning("failure %d of %d: %s", self._failures, MOST_FAILURES, error)
                if not is_last:
                    wait = max(1, self._recipe.checkpoint_interval // _RETRIES_PER_INTERVAL)
                    self._retry_at = updates + wait
                    return
        self._failures = 0
        self._retry_at = None
        keep, every = self._recipe.checkpoints_kept, self._recipe.milestone_interval
        try:
            on_first(lambda: remove_old(self._directory, keep=keep, every=every), self._place)
        except ActionError as error:  # what was to be saved is safe
            if self._place.rank == 0:
                _log.warning("an old checkpoint was not removed: %s", error)
