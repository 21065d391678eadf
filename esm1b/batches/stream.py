"""Micro-batches ready to train, prepared ahead of the update that needs them."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esm1b.alphabet import CLS, EOS, merge_rare_residues
from esm1b.batches.counter import Purpose, keys, uniform, words
from esm1b.batches.masking import Corruption, RareResidues, mask_tokens
from esm1b.batches.order import SequenceOrder
from esm1b.batches.packing import rounds_needed, share_out
from esm1b.corpus.tokens import TokenDataset

__all__ = ["BatchRecipe", "MicroBatch", "UpdateStream", "make_batch"]

_UPDATES_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class BatchRecipe:
    """What decides the content of a batch besides the sequences.

    Attributes:
        crop_residues: longer sequences are cropped at random to this many residues.
        append_eos: whether `<eos>` closes each sequence.
        rare_residues: "replace" merges B, U, Z and O into X.
        seed: of crops and masks.
    """

    crop_residues: int
    append_eos: bool
    rare_residues: RareResidues
    seed: int


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Masked sequences end to end.

    Attributes:
        tokens: int64 `[tokens]`.
        lengths: int64 `[sequences]`, tokens of each, special tokens included.
        masked_positions: int64 `[masked]`, ascending.
        targets: int64 `[masked]`.
    """

    tokens: NDArray[np.int64]
    lengths: NDArray[np.int64]
    masked_positions: NDArray[np.int64]
    targets: NDArray[np.int64]


def make_batch(
    dataset: TokenDataset,
    sequences: NDArray[np.int64],
    epochs: NDArray[np.int64],
    recipe: BatchRecipe,
    *,
    corruption: Corruption = "training",
) -> MicroBatch:
    """Return the sequences cropped, framed by special tokens, masked and laid end to end.

    Without sequences the batch is one `<cls> <eos>` with nothing masked: it trains nothing, but
    a network can run on it.
    """
    lengths = dataset.lengths[sequences].astype(np.int64)
    counts = np.minimum(lengths, recipe.crop_residues)
    crop_words = words(keys(Purpose.CROP, recipe.seed, epochs, sequences), np.zeros_like(lengths))
    crops = np.floor(uniform(crop_words) * (lengths - counts + 1)).astype(np.int64)
    residues = dataset.gather(sequences, crops, counts)
    if recipe.rare_residues == "replace":
        residues = merge_rare_residues(residues)
    if len(sequences) == 0:
        counts = np.zeros(1, dtype=np.int64)
        epochs = sequences = counts
    tokens, framed_lengths = _frame(residues, counts, append_eos=recipe.append_eos)
    masked = mask_tokens(
        tokens,
        framed_lengths,
        seed=recipe.seed,
        epochs=epochs,
        sequences=sequences,
        corruption=corruption,
    )
    return MicroBatch(
        tokens=masked.tokens.astype(np.int64),
        lengths=framed_lengths,
        masked_positions=masked.positions,
        targets=masked.targets.astype(np.int64),
    )


def _frame(
    residues: NDArray[np.uint8], counts: NDArray[np.int64], *, append_eos: bool
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return tokens with `<cls>` before and `<eos>` after each sequence, and the new lengths."""
    lengths = counts + (2 if append_eos else 1)
    ends = np.cumsum(lengths)
    tokens = np.empty(int(ends[-1]), dtype=np.uint8)
    is_residue = np.ones(len(tokens), dtype=bool)
    is_residue[ends - lengths] = False
    tokens[ends - lengths] = CLS
    if append_eos:
        is_residue[ends - 1] = False
        tokens[ends - 1] = EOS
    tokens[is_residue] = residues
    return tokens, lengths


class UpdateStream:
    """The micro-batches of one process, update after update, prepared in a thread of its own.

    Args:
        dataset: the training tokens.
        order: which sequences each update holds.
        recipe: how they become batches.
        micro_batch_tokens: how many tokens a process takes at once.
        width: of the network, for balancing.
        rank: this process.
        processes: how many there are.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        order: SequenceOrder,
        recipe: BatchRecipe,
        *,
        micro_batch_tokens: int,
        width: int,
        rank: int,
        processes: int,
    ) -> None:
        self._dataset = dataset
        self._order = order
        self._recipe = recipe
        self._micro_batch_tokens = micro_batch_tokens
        self._width = width
        self._rank = rank
        self._processes = processes

    def update(self, number: int) -> list[MicroBatch]:
        """Return this process's micro-batches of update `number`; every process has as many."""
        members = self._order.update(number)
        special = 2 if self._recipe.append_eos else 1
        lengths = self._dataset.lengths[members.sequences].astype(np.int64)
        tokens = np.minimum(lengths, self._recipe.crop_residues) + special
        rounds = rounds_needed(
            int(tokens.sum()),
            micro_batch_tokens=self._micro_batch_tokens,
            processes=self._processes,
        )
        shares = share_out(tokens, micro_batches=rounds * self._processes, width=self._width)
        return [
            make_batch(self._dataset, members.sequences[share], members.epochs[share], self._recipe)
            for share in shares[self._rank :: self._processes]
        ]

    def updates(self, first: int, last: int) -> Iterator[list[MicroBatch]]:
        """Yield updates `first` to `last` - 1, a few prepared ahead."""
        with ThreadPoolExecutor(max_workers=1) as executor:
            ahead: deque[Future[list[MicroBatch]]] = deque()
            for number in range(first, last):
                ahead.append(executor.submit(self.update, number))
                if len(ahead) > _UPDATES_AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
