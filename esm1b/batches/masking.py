"""Masking: 15 % of the amino acids of each sequence, an exact count, then 80/10/10.

The model card of ESM-1b is the written specification (facts: a random residue is always a
different one; special tokens are never chosen); the count rounds stochastically as in fairseq
`data/mask_tokens_dataset.py`: floor(0.15 n + u), u uniform in [0, 1).
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from esm1b.alphabet import AMINO_ACIDS, FIRST_AMINO_ACID, MASK, RESIDUES, X
from esm1b.batches.counter import Purpose, keys, uniform, words

__all__ = ["Corruption", "MaskedTokens", "mask_tokens"]

MASKED_SHARE: Final = 0.15
_POSITION_BITS: Final = 16
_PRIORITY_BITS: Final = 28

Corruption = Literal["training", "mask-only"]
RareResidues = Literal["replace", "keep"]


@dataclass(frozen=True, kw_only=True)
class MaskedTokens:
    """Tokens after masking.

    Attributes:
        tokens: uint8 `[tokens]`, corrupted.
        positions: int64 `[masked]`, ascending, the chosen places of `tokens`.
        targets: uint8 `[masked]`, the tokens that stood there.
    """

    tokens: NDArray[np.uint8]
    positions: NDArray[np.int64]
    targets: NDArray[np.uint8]


def mask_tokens(
    tokens: NDArray[np.uint8],
    lengths: NDArray[np.int64],
    *,
    seed: int,
    epochs: NDArray[np.int64],
    sequences: NDArray[np.int64],
    corruption: Corruption = "training",
) -> MaskedTokens:
    """Choose and corrupt 15 % of the residues of each of several sequences.

    What happens to a sequence depends on its tokens and on (seed, epoch, sequence) only. X is
    never chosen; the rare residues B, U, Z and O are, where they were not merged into X before.

    Args:
        tokens: uint8 `[tokens]`, sequences end to end, special tokens included.
        lengths: int64 `[sequences]`, tokens of each, fewer than 65,536.
        seed: of crops and masks.
        epochs: int64 `[sequences]`.
        sequences: int64 `[sequences]`, index of each in the corpus.
        corruption: "training" makes 80 % of the chosen `<mask>`, 10 % another amino acid and
            leaves 10 %, drawn for each position; "mask-only" makes all of them `<mask>`.
    """
    starts = np.cumsum(lengths) - lengths
    owner = np.repeat(np.arange(len(lengths)), lengths)
    offset = np.arange(len(tokens)) - starts[owner]
    is_residue = (tokens >= FIRST_AMINO_ACID) & (tokens < FIRST_AMINO_ACID + len(RESIDUES))
    eligible = np.flatnonzero(is_residue & (tokens != X))
    owner, offset = owner[eligible], offset[eligible]

    def stream(purpose: Purpose) -> NDArray[np.uint64]:
        return keys(purpose, seed, epochs, sequences)

    eligible_counts = np.bincount(owner, minlength=len(lengths))
    rounding = uniform(words(stream(Purpose.MASKED_COUNT), np.zeros(len(lengths), dtype=np.int64)))
    masked_counts = np.floor(MASKED_SHARE * eligible_counts + rounding).astype(np.int64)

    # One sortable word for each residue: sequence, random priority, offset. The offset makes the
    # words distinct and gives the place back after sorting.
    priority = words(stream(Purpose.MASKED_POSITIONS)[owner], offset)
    word = (
        (owner.astype(np.uint64) << np.uint64(_PRIORITY_BITS + _POSITION_BITS))
        | (priority >> np.uint64(64 - _PRIORITY_BITS) << np.uint64(_POSITION_BITS))
        | offset.astype(np.uint64)
    )
    word.sort()
    first = np.cumsum(eligible_counts) - eligible_counts
    chosen = np.arange(len(word)) - first[owner] < masked_counts[owner]
    chosen_owner = owner[chosen]
    chosen_offset = (word[chosen] & np.uint64((1 << _POSITION_BITS) - 1)).astype(np.int64)
    positions = starts[chosen_owner] + chosen_offset
    ascending = np.argsort(positions)
    positions = positions[ascending]
    chosen_owner, chosen_offset = chosen_owner[ascending], chosen_offset[ascending]

    targets = tokens[positions]
    corrupted = tokens.copy()
    if corruption == "mask-only":
        corrupted[positions] = MASK
    else:
        draw = uniform(words(stream(Purpose.CORRUPTION)[chosen_owner], chosen_offset))
        replacement = words(stream(Purpose.REPLACEMENT)[chosen_owner], chosen_offset)
        replaced = (draw >= 0.8) & (draw < 0.9)
        corrupted[positions[draw < 0.8]] = MASK
        corrupted[positions[replaced]] = _another_amino_acid(
            targets[replaced], replacement[replaced]
        )
    return MaskedTokens(tokens=corrupted, positions=positions, targets=targets)


def _another_amino_acid(
    tokens: NDArray[np.uint8], random_words: NDArray[np.uint64]
) -> NDArray[np.uint8]:
    """Return a uniform draw from the 20 amino acids without the one in `tokens`."""
    index = tokens.astype(np.int64) - FIRST_AMINO_ACID
    is_rare = index >= len(AMINO_ACIDS)
    others = np.where(is_rare, len(AMINO_ACIDS), len(AMINO_ACIDS) - 1).astype(np.uint64)
    step = (random_words % others).astype(np.int64) + np.where(is_rare, 0, 1)
    start = np.where(is_rare, 0, index)
    return ((start + step) % len(AMINO_ACIDS) + FIRST_AMINO_ACID).astype(np.uint8)
