"""Pairs of residues that are far enough apart in the sequence to count."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

MINIMUM_SEPARATION: Final = 6


def pair_mask(
    observed: NDArray[np.bool_], first: int = MINIMUM_SEPARATION, beyond: int = 1 << 30
) -> NDArray[np.bool_]:
    """Return which pairs i < j count, `[length, length]`.

    Those of two observed residues with `first <= j - i < beyond`.
    """
    position = np.arange(observed.size)
    separation = position[None, :] - position[:, None]
    return (separation >= first) & (separation < beyond) & observed[None, :] & observed[:, None]
