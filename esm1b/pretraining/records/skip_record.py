"""The record of the updates that were skipped, and when there are too many of them."""

import logging
from collections.abc import Sequence
from typing import Final

from torch import Tensor

from esm1b.batches.order import SequenceOrder
from esm1b.errors import RunFailure
from esm1b.pretraining.processes.launch import Place
from esm1b.pretraining.records.skipped import SkippedUpdate
from esm1b.pretraining.records.skips import Skips

__all__ = ["MOST_IN_A_ROW", "SkipRecord"]

_log = logging.getLogger(__name__)

MOST_IN_A_ROW: Final = 50
"""Updates in a row without a finite gradient: more than fp16 takes to find its loss scale."""

_SEQUENCES_NAMED: Final = 10


class SkipRecord:
    """Which updates were skipped; the same in all processes.

    Args:
        order: says which sequences they held.
        place: of this process; the first one tells of them.

    Attributes:
        skipped: those known of, oldest first.
    """

    def __init__(self, order: SequenceOrder, place: Place) -> None:
        self._order = order
        self._place = place
        self._flags = Skips()
        self._in_a_row = 0
        self.skipped: list[SkippedUpdate] = []

    def restore(self, skipped: Sequence[SkippedUpdate], *, updates: int) -> None:
        """Begin with those that the checkpoint after `updates` updates records."""
        self.skipped = list(skipped)
        self._in_a_row = 0
        for one in reversed(self.skipped):
            if one.update != updates - self._in_a_row:
                break
            self._in_a_row += 1

    def push(self, update: int, skipped: Tensor) -> None:
        """Add the flag of `update`, bool `[]` on the device, without waiting for it."""
        self._flags.push(update, skipped)

    def note(self, *, but_newest: int) -> None:
        """Read the flags that wait.

        Args:
            but_newest: flags that are left to wait.

        Raises:
            RunFailure: too many updates in a row were skipped.
        """
        for update, is_skipped in self._flags.known(but_newest=but_newest):
            if is_skipped:
                self._add(update)
            else:
                self._in_a_row = 0

    def _add(self, update: int) -> None:
        members = self._order.update(update - 1)
        sequences = members.sequences.tolist()
        self.skipped.append(
            SkippedUpdate(update=update, epochs=members.epochs.tolist(), sequences=sequences)
        )
        if self._place.rank == 0:
            named = " ".join(map(str, sequences[:_SEQUENCES_NAMED]))
            _log.warning(
                "update %d: its gradient is not finite, so nothing was changed; it held %d "
                "sequences: %s%s",
                update,
                len(sequences),
                named,
                " ..." if len(sequences) > _SEQUENCES_NAMED else "",
            )
        self._in_a_row += 1
        if self._in_a_row > MOST_IN_A_ROW:
            raise RunFailure(
                f"the gradients of the {self._in_a_row} updates up to {update} are not finite"
            )
