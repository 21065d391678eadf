"""Which sequences update k holds: a function of the lengths, the seed and k alone.

Epochs are laid end to end. A sequence counts its residues, at most the crop, and two special
tokens, so every epoch has the same number of tokens. Update k holds the sequences whose first
token falls in [k B, (k + 1) B): B tokens on average, and it may span two epochs.

An epoch's order is a permutation that can be computed at any rank. To find a token in it, the
tokens of the blocks of ranks before it are added up once, which takes two or three seconds for 60
million sequences; every later update then computes its own block only.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray

from esm1b.batches.randomness import Permutation

# Ranks whose tokens are added up: 15,000 sums for 60 million sequences, half a millisecond to
# compute one block's order again.
_BLOCK: Final = 4096
# Sequences looked at once, so that no array has one entry for each sequence.
_CHUNK: Final = 16 * _BLOCK


@dataclass(frozen=True, kw_only=True)
class UpdateSequences:
    """The sequences of one update, int64 `[sequences]` each."""

    epochs: NDArray[np.int64]
    sequences: NDArray[np.int64]


class SequenceOrder:
    """The order of a corpus: any update at any time, from any thread.

    `lengths` `[sequences]` are the residues of each sequence, at least one; kept, not copied.
    `tokens_per_update` is B, special tokens included.
    """

    def __init__(
        self, lengths: NDArray[np.int32], *, crop_residues: int, tokens_per_update: int, seed: int
    ) -> None:
        self.sequences = len(lengths)
        self.tokens_per_update = tokens_per_update
        self._lengths = lengths
        self._crop_residues = crop_residues
        self._seed = seed
        self.tokens_per_epoch = sum(
            int(self._tokens(lengths[start : start + _CHUNK]).sum())
            for start in range(0, len(lengths), _CHUNK)
        )
        # an update may span epochs, so the current one and the next are kept
        self._kept = lru_cache(maxsize=2)(self._lay_out)
        self._lock = Lock()

    def update(self, number: int) -> UpdateSequences:
        """Return the sequences of update `number`, counted from 0, in their order."""
        begin = number * self.tokens_per_update
        end = begin + self.tokens_per_update
        epochs: list[NDArray[np.int64]] = []
        sequences: list[NDArray[np.int64]] = []
        for epoch in range(begin // self.tokens_per_epoch, (end - 1) // self.tokens_per_epoch + 1):
            offset = epoch * self.tokens_per_epoch
            first = self._sequences_before(epoch, begin - offset)
            last = self._sequences_before(epoch, end - offset)
            sequences.append(self.permuted(epoch, np.arange(first, last)))
            epochs.append(np.full(last - first, epoch, dtype=np.int64))
        return UpdateSequences(epochs=np.concatenate(epochs), sequences=np.concatenate(sequences))

    def epoch_at(self, updates: int) -> float:
        """Return the epochs of `updates` updates, a fraction included."""
        return updates * self.tokens_per_update / self.tokens_per_epoch

    def sequences_seen(self, updates: int) -> int:
        """Return the number of sequences in the first `updates` updates, over all epochs."""
        epoch, tokens = divmod(updates * self.tokens_per_update, self.tokens_per_epoch)
        return epoch * self.sequences + self._sequences_before(epoch, tokens)

    def permuted(self, epoch: int, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sequence at each of `ranks` `[n]` of an epoch, int64 `[n]`."""
        return self._epoch(epoch).permutation(ranks)

    def _sequences_before(self, epoch: int, token: int) -> int:
        """Return the number of sequences of an epoch with their first token before `token`."""
        if token <= 0:
            return 0
        if token >= self.tokens_per_epoch:
            return len(self._lengths)
        laid_out = self._epoch(epoch)
        with self._lock:
            block, first_token = laid_out.block_of(token)
        ranks = np.arange(block * _BLOCK, min((block + 1) * _BLOCK, len(self._lengths)))
        tokens = self._tokens(self._lengths.take(laid_out.permutation(ranks)))
        first_tokens = first_token + np.cumsum(tokens) - tokens
        return block * _BLOCK + int(np.searchsorted(first_tokens, token))

    def _epoch(self, epoch: int) -> "_Epoch":
        with self._lock:
            return self._kept(epoch)

    def _lay_out(self, epoch: int) -> "_Epoch":
        permutation = Permutation(len(self._lengths), seed=self._seed, epoch=epoch)
        return _Epoch(permutation, self._block_sums(permutation))

    def _block_sums(self, permutation: Permutation) -> Iterator[int]:
        """Yield the tokens of each block of an epoch's ranks, computed several at a time."""
        for start in range(0, len(self._lengths), _CHUNK):
            ranks = np.arange(start, min(start + _CHUNK, len(self._lengths)))
            tokens = self._tokens(self._lengths.take(permutation(ranks)))
            yield from np.add.reduceat(tokens, np.arange(0, len(tokens), _BLOCK)).tolist()

    def _tokens(self, lengths: NDArray[np.int32]) -> NDArray[np.int64]:
        return np.minimum(lengths, self._crop_residues).astype(np.int64) + 2


@dataclass
class _Epoch:
    """An epoch's permutation, and the first tokens of its blocks, computed on demand."""

    permutation: Permutation
    _block_sums: Iterator[int]
    # the first token of each block and, in the end, the number of tokens
    _first_tokens: list[int] = field(default_factory=lambda: [0])

    def block_of(self, token: int) -> tuple[int, int]:
        """Return the last block that begins before `token`, and its first token."""
        while self._first_tokens[-1] < token:
            self._first_tokens.append(self._first_tokens[-1] + next(self._block_sums))
        block = bisect_left(self._first_tokens, token) - 1
        return block, self._first_tokens[block]
