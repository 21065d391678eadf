"""The record of the updates that were skipped, and when there are too many of them."""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from esm1b.batches.order import SequenceOrder
from esm1b.errors import RunFailure
from esm1b.pretraining.distributed.place import Place

_log = logging.getLogger(__name__)

MOST_IN_A_ROW: Final = 50
"""Updates in a row without a finite gradient: more than fp16 takes to find its loss scale."""

_SEQUENCES_NAMED: Final = 10


@dataclass(frozen=True, kw_only=True)
class SkippedUpdate:
    """An update whose gradient was not finite, so that it changed nothing.

    Attributes:
        update: its number, counted from 1.
        epochs: epoch of each of its sequences.
        sequences: index of each of its sequences in the training tokens.
    """

    update: int
    epochs: list[int]
    sequences: list[int]


class Skips:
    """Flags of updates, read when the device is done with them.

    A flag is copied to the host behind its update and read when the next update is under way, so
    that the device never runs dry.
    """

    def __init__(self) -> None:
        self._flags: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def push(self, update: int, skipped: Tensor) -> None:
        """Add the flag of `update`, bool `[]` on the device."""
        if skipped.is_cuda:
            flag = torch.empty((), dtype=torch.bool, pin_memory=True)
            flag.copy_(skipped, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
            self._flags.append((update, flag, copied))
        else:
            self._flags.append((update, skipped, None))

    def known(self, *, but_newest: int) -> list[tuple[int, bool]]:
        """Return (update, whether it was skipped) of all that wait to be read, oldest first.

        Args:
            but_newest: flags that are left to wait.
        """
        found = []
        while len(self._flags) > but_newest:
            update, flag, copied = self._flags.popleft()
            if copied is not None:
                copied.synchronize()
            found.append((update, bool(flag)))
        return found


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
