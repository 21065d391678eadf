"""The record of skipped updates, which ends a run when there are too many of them."""

import logging
from collections import deque
from dataclasses import dataclass, field
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

    `epochs` and `sequences` are those that it held; sequences count in the training tokens.
    """

    update: int
    epochs: list[int]
    sequences: list[int]


@dataclass
class SkipRecord:
    """The updates that were skipped, the same in all processes.

    The flag of an update is copied to the host behind the update and read when the next one is
    under way, so that the device never waits for the host.

    Attributes:
        skipped: skipped updates, oldest first; at the start those of the checkpoint.
    """

    order: SequenceOrder
    place: Place
    skipped: list[SkippedUpdate] = field(default_factory=list)
    _flags: deque[tuple[int, Tensor, torch.cuda.Event | None]] = field(
        default_factory=deque, init=False
    )

    def push(self, update: int, skipped: Tensor) -> None:
        """Add the flag of `update`, bool `[]` on the device, without waiting for it."""
        copied = None
        if skipped.is_cuda:
            flag = torch.empty((), dtype=torch.bool, pin_memory=True)
            skipped = flag.copy_(skipped, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self._flags.append((update, skipped, copied))

    def read(self, *, but_newest: int = 0) -> None:
        """Read the flags, oldest first, all but the `but_newest` last ones.

        Raises:
            RunFailure: too many updates in a row were skipped.
        """
        while len(self._flags) > but_newest:
            update, flag, copied = self._flags.popleft()
            if copied is not None:
                copied.synchronize()
            if flag:
                self._record(update)

    def _record(self, update: int) -> None:
        members = self.order.update(update - 1)
        sequences = members.sequences.tolist()
        self.skipped.append(
            SkippedUpdate(update=update, epochs=members.epochs.tolist(), sequences=sequences)
        )
        if self.place.rank == 0:
            named = [*map(str, sequences[:_SEQUENCES_NAMED])]
            more = ["..."] if len(sequences) > _SEQUENCES_NAMED else []
            _log.warning(
                f"update {update}: its gradient is not finite, so nothing was changed; it held "
                f"{len(sequences)} sequences: {' '.join(named + more)}"
            )
        in_a_row = range(update - MOST_IN_A_ROW, update + 1)
        if [one.update for one in self.skipped[-len(in_a_row) :]] == list(in_a_row):
            raise RunFailure(
                f"the gradients of the {len(in_a_row)} updates up to {update} are not finite"
            )
