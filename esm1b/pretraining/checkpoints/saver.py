"""When a run saves, and what happens after a save that fails."""

import logging
from dataclasses import dataclass, field
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
"""Saves in a row that may fail before the last failure ends the run."""

# A failed save is tried again after this share of the interval.
_RETRIES_PER_INTERVAL: Final = 10


@dataclass
class Saver:
    """Saves at intervals; after a failure training continues and the save is tried again."""

    directory: Path
    recipe: PretrainingConfig
    engine: Engine
    place: Place
    _failures: int = field(default=0, init=False)
    _retry_at: int | None = field(default=None, init=False)

    def is_due(self, updates: int) -> bool:
        """Return whether to save after `updates` updates; the same in all processes."""
        return (
            updates in (self.recipe.updates, self._retry_at)
            or updates % self.recipe.checkpoint_interval == 0
            or is_milestone(updates, self.recipe.milestone_interval)
        )

    def save(self, updates: int, skipped: list[SkippedUpdate], *, is_last: bool = False) -> None:
        """Write a checkpoint and remove old ones. Collective.

        The last save of a run is tried again at once when it fails.

        Raises:
            SaveError: too many saves in a row have failed.
        """
        while True:
            try:
                checkpoint.save(
                    self.directory, self.engine, updates=updates, skipped=skipped, place=self.place
                )
                break
            except SaveError as error:
                self._failures += 1
                if self._failures >= MOST_FAILURES:
                    raise
                if self.place.rank == 0:
                    _log.warning("failure %d of %d: %s", self._failures, MOST_FAILURES, error)
            if not is_last:
                wait = max(1, self.recipe.checkpoint_interval // _RETRIES_PER_INTERVAL)
                self._retry_at = updates + wait
                return
        self._failures = 0
        self._retry_at = None
        keep, every = self.recipe.checkpoints_kept, self.recipe.milestone_interval
        try:
            on_first(lambda: remove_old(self.directory, keep=keep, every=every), self.place)
        except ActionError as error:  # the new checkpoint is safe
            if self.place.rank == 0:
                _log.warning("an old checkpoint was not removed: %s", error)
