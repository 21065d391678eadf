"""Masking: 15 % of the amino acids of each sequence, an exact count, then 80/10/10.

The model card of ESM-1b is the written specification (facts: a random residue is always a
different one; special tokens are never chosen); the count rounds stochastically as in fairseq
`data/mask_tokens_dataset.py`: floor(0.15 n + u), u uniform in [0, 1).

Places are drawn one after the other, uniformly over the sequence. A draw of a place that is taken,
or must not be masked, is ignored. So every set of places of the right size is equally likely, and
each residue costs only about 0.2 random words and no sorting.
"""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from esm1b.alphabet import AMINO_ACIDS, FIRST_AMINO_ACID, MASK, RESIDUES, X
from esm1b.batches.randomness import Purpose, keys, uniform, words

# Masks of validation and evaluation are the same for every run, so that runs can be compared.
VALIDATION_SEED: Final = 20_180_302
MASKED_SHARE: Final = 0.15
# The upper half of a draw's word chooses the place, the lower half the corruption.
_HALF_BITS: Final = np.uint64(32)
_LOWER_HALF: Final = np.uint64(2**32 - 1)
# Choosing 15 % of the places takes 1.084 draws for each on average: -ln(1 - 0.15) / 0.15. About one
# sequence in 20,000 needs more than this; its draws are then doubled.
_DRAWS_FOR_EACH: Final = 1.15
_DRAWS_MORE: Final = 8

Corruption = Literal["training", "mask-only"]


def mask_tokens(
    tokens: NDArray[np.uint8],
    lengths: NDArray[np.int64],
    *,
    seed: int,
    epochs: NDArray[np.int64],
    sequences: NDArray[np.int64],
    corruption: Corruption = "training",
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Choose and corrupt 15 % of the residues of each of several sequences.

    Returns the corrupted tokens, uint8 `[tokens]`, and the chosen places, int64 `[masked]`,
    ascending. `tokens` itself is unchanged, so `tokens[places]` are the true ones.

    The result depends on the tokens of a sequence and on (seed, epoch, sequence) only. X is never
    chosen; the rare residues B, U, Z and O are, unless they were merged into X before.

    Args:
        tokens: uint8 `[tokens]`, sequences end to end, special tokens included.
        lengths: int64 `[sequences]`, tokens of each.
        seed: random seed.
        epochs: int64 `[sequences]`.
        sequences: int64 `[sequences]`, index of each in the corpus.
        corruption: "training" turns 80 % of the chosen into `<mask>`, 10 % into another amino acid
            and leaves 10 %, drawn for each position; "mask-only" turns all of them into `<mask>`.
    """
    maskable = (tokens >= FIRST_AMINO_ACID) & (tokens < FIRST_AMINO_ACID + len(RESIDUES))
    maskable &= tokens != X
    # Places that must not be masked are few, so those are counted: two of a sequence, and X.
    ends = np.cumsum(lengths)
    owners = np.searchsorted(ends, np.flatnonzero(~maskable), side="right")
    maskable_counts = lengths - np.bincount(owners, minlength=len(lengths))
    stream = keys(Purpose.MASKING, seed, epochs, sequences)
    rounding = uniform(words(stream, np.zeros_like(lengths)))
    masked_counts = (MASKED_SHARE * maskable_counts + rounding).astype(np.int64)

    positions, random_bits = _choose(maskable, lengths, maskable_counts, masked_counts, stream)
    corrupted = tokens.copy()
    if corruption == "mask-only":
        corrupted[positions] = MASK
    else:
        corrupted[positions] = _training_corruption(tokens[positions], random_bits)
    return corrupted, positions


def _choose(
    maskable: NDArray[np.bool_],
    lengths: NDArray[np.int64],
    maskable_counts: NDArray[np.int64],
    masked_counts: NDArray[np.int64],
    stream: NDArray[np.uint64],
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return `masked_counts` random places of each sequence, ascending, and 32 random bits each.

    The draws of a sequence are words 1, 2, 3, ... of its stream, so computing more of them than
    needed changes nothing. All sequences draw at once, their draws end to end:

        owner       0 0 0 0 0 1 1 1 ...   sequence of each draw
        positions   4 7 4 1 9 . . .       place of each draw in `maskable`
        counts      1 1 0 1 1 . . .       1 for the first draw of a place that may be masked

    A sequence takes its first `masked_counts` draws that count.
    """
    starts = np.cumsum(lengths) - lengths
    expected = masked_counts * lengths / np.maximum(maskable_counts, 1)
    draws = np.where(masked_counts > 0, _DRAWS_FOR_EACH * expected + _DRAWS_MORE, 0)
    while True:
        draws = draws.astype(np.int64)
        ends = np.cumsum(draws)
        owner = np.repeat(np.arange(len(lengths)), draws)
        draw = np.arange(len(owner))
        word = words(stream[owner], draw - (ends - draws - 1)[owner])
        place = (word >> _HALF_BITS) * lengths.astype(np.uint64)[owner] >> _HALF_BITS
        positions = starts[owner] + place.astype(np.int64)
        first_draw = np.full(len(maskable), len(draw))
        np.minimum.at(first_draw, positions, draw)
        counts = (first_draw[positions] == draw) & maskable[positions]
        # `[draws + 1]`, number of draws before each that count
        counted = np.concatenate(([0], np.cumsum(counts)))
        counted_before = counted[ends - draws]
        short = counted[ends] - counted_before < masked_counts
        if not short.any():
            break
        draws[short] *= 2
    counts &= counted[1:] <= (counted_before + masked_counts)[owner]
    chosen = np.zeros(len(maskable), dtype=bool)
    chosen[positions[counts]] = True
    places = np.flatnonzero(chosen)
    return places, word[first_draw[places]] & _LOWER_HALF


def _training_corruption(
    targets: NDArray[np.uint8], random_bits: NDArray[np.uint64]
) -> NDArray[np.uint8]:
    """Return `<mask>` for eight targets in ten, another amino acid for one, the target for one.

    `random_bits` are uint64 `[masked]`, below 2^32. Times ten, their upper half is a uniform tenth,
    and their lower half uniform again.
    """
    scaled = random_bits * np.uint64(10)
    tenth = scaled >> _HALF_BITS
    corrupted = np.where(tenth < 8, np.uint8(MASK), targets)
    replaced = np.flatnonzero(tenth == 8)
    corrupted[replaced] = _another_amino_acid(targets[replaced], scaled[replaced] & _LOWER_HALF)
    return corrupted


def _another_amino_acid(
    tokens: NDArray[np.uint8], random_bits: NDArray[np.uint64]
) -> NDArray[np.uint8]:
    """Return a uniform draw from the 20 amino acids without the one in `tokens`."""
    index = tokens.astype(np.int64) - FIRST_AMINO_ACID
    is_rare = index >= len(AMINO_ACIDS)
    others = np.where(is_rare, len(AMINO_ACIDS), len(AMINO_ACIDS) - 1).astype(np.uint64)
    drawn = (random_bits * others >> _HALF_BITS).astype(np.int64)
    drawn += ~is_rare & (drawn >= index)  # skips the residue itself
    return (drawn + FIRST_AMINO_ACID).astype(np.uint8)
