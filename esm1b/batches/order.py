"""Which sequences update k holds: a function of the lengths, the seed and k alone.

Epochs are laid end to end. A sequence counts its residues, at most the crop, and two special
tokens, so every epoch has the same number of tokens. Update k holds the sequences whose first
token falls in [k B, (k + 1) B): B tokens on average, and it may span two epochs.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from esm1b.batches.counter import Purpose, keys

__all__ = ["SequenceOrder", "UpdateSequences"]


@dataclass(frozen=True, kw_only=True)
class UpdateSequences:
    """The sequences of one update, int64 `[sequences]` each."""

    epochs: NDArray[np.int64]
    sequences: NDArray[np.int64]


class SequenceOrder:
    """The order of a corpus: any update can be asked for at any time.

    Args:
        lengths: int32 `[sequences]`, residues of each sequence.
        crop_residues: longer sequences count as this many residues.
        tokens_per_update: B, special tokens included.
        seed: of the shuffling.
    """

    def __init__(
        self, lengths: NDArray[np.int32], *, crop_residues: int, tokens_per_update: int, seed: int
    ) -> None:
        self.tokens_per_update = tokens_per_update
        self._seed = seed
        self._tokens = np.minimum(lengths, crop_residues).astype(np.int64) + 2
        self.tokens_per_epoch = int(self._tokens.sum())
        # An update may span epochs, so the current one and the next are kept.
        self._epoch = lru_cache(maxsize=2)(self._shuffled_epoch)

    def update(self, number: int) -> UpdateSequences:
        """Return the sequences of update `number`, counted from 0, in their order."""
        begin = number * self.tokens_per_update
        end = begin + self.tokens_per_update
        epochs: list[NDArray[np.int64]] = []
        sequences: list[NDArray[np.int64]] = []
        for epoch in range(begin // self.tokens_per_epoch, (end - 1) // self.tokens_per_epoch + 1):
            permutation, first_tokens = self._epoch(epoch)
            offset = epoch * self.tokens_per_epoch
            first, last = np.searchsorted(first_tokens, (begin - offset, end - offset))
            sequences.append(permutation[first:last])
            epochs.append(np.full(last - first, epoch, dtype=np.int64))
        return UpdateSequences(epochs=np.concatenate(epochs), sequences=np.concatenate(sequences))

    def epoch_at(self, updates: int) -> float:
        """Return how many epochs `updates` updates are."""
        return updates * self.tokens_per_update / self.tokens_per_epoch

    def _shuffled_epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the epoch's permutation and the place of each sequence's first token in it."""
        indices = np.arange(len(self._tokens), dtype=np.int64)
        permutation = np.argsort(keys(Purpose.ORDER, self._seed, epoch, indices), kind="stable")
        tokens = self._tokens[permutation]
        return permutation, np.cumsum(tokens) - tokens
