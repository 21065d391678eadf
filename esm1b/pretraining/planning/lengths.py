"""What the lengths of a corpus mean for the arithmetic of a run."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

UNIREF50_MEAN_LENGTH: Final = 286.5
"""Residues of a UniRef50 sequence on average: 17,282,055,793 residues in 60,315,044 sequences, a
release after 2018_03, at second hand (the manifest of LiteFold/UniRef50 on Hugging Face)."""

# Spread of the logarithm of lengths, as in samples of UniRef90 (benchmarks/README.md).
_LOGARITHM_SPREAD: Final = 0.70

# As the order counts them: `<cls>` and `<eos>`.
_SPECIAL_TOKENS: Final = 2

_AT_ONCE: Final = 1 << 22


@dataclass(frozen=True, kw_only=True)
class LengthStatistics:
    """Means over the sequences of a corpus, cropped and with both special tokens.

    Attributes:
        mean_tokens: tokens of a sequence.
        weighted_mean_length: of the sequence that a token is part of: the sum of squared lengths
            over the sum of lengths, in tokens.
    """

    mean_tokens: float
    weighted_mean_length: float


def length_statistics(lengths: NDArray[np.int32], *, crop_residues: int) -> LengthStatistics:
    """Return the means over sequences of `lengths` residues, int32 `[sequences]`, not empty."""
    total = squares = 0
    for start in range(0, len(lengths), _AT_ONCE):
        part = np.minimum(lengths[start : start + _AT_ONCE], crop_residues).astype(np.int64)
        part += _SPECIAL_TOKENS
        total += int(part.sum())
        squares += int((part * part).sum())
    return LengthStatistics(mean_tokens=total / len(lengths), weighted_mean_length=squares / total)


def weighted_mean_length(lengths: NDArray[np.int32], *, crop_residues: int) -> float:
    """Return the tokens of the sequence that a token is part of, on average."""
    return length_statistics(lengths, crop_residues=crop_residues).weighted_mean_length


def drawn_length_statistics(mean_residues: float, *, crop_residues: int) -> LengthStatistics:
    """Return the means where only the mean length is known: lengths log-normal, spread 0.70.

    With m the mean, g the spread and c the crop, L has E[min(L, c)] = m P(z - g) + c (1 - P(z)) and
    E[min(L, c)^2] = m^2 exp(g^2) P(z - 2 g) + c^2 (1 - P(z)), where P is the normal distribution
    function and z = (ln(c / m) + g^2 / 2) / g.
    """
    spread = _LOGARITHM_SPREAD
    z = (math.log(crop_residues / mean_residues) + spread**2 / 2) / spread
    longer = 1 - _normal(z)
    first = mean_residues * _normal(z - spread) + crop_residues * longer
    second = (
        mean_residues**2 * math.exp(spread**2) * _normal(z - 2 * spread) + crop_residues**2 * longer
    )
    tokens = first + _SPECIAL_TOKENS
    squares = second + 2 * _SPECIAL_TOKENS * first + _SPECIAL_TOKENS**2
    return LengthStatistics(mean_tokens=tokens, weighted_mean_length=squares / tokens)


def _normal(z: float) -> float:
    return (1 + math.erf(z / math.sqrt(2))) / 2
