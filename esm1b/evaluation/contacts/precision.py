"""Precision of contact scores by range of sequence separation.

The ranges are those of facebookresearch/esm, `examples/contact_prediction.ipynb`.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from esm1b.evaluation.structures.geometry import MINIMUM_SEPARATION, pair_mask

# Sequence separation j - i, from the first (included) to the second (excluded).
RANGES: Final[Mapping[str, tuple[int, int]]] = {
    "short": (6, 12),
    "medium": (12, 24),
    "long": (24, 1 << 30),
    "all": (MINIMUM_SEPARATION, 1 << 30),
}
FRACTIONS: Final[Mapping[str, int]] = {"L": 1, "L2": 2, "L5": 5}  # top L, L/2, L/5 pairs

PRECISIONS: Final = (
    "precision_at_contacts",
    *(f"precision_at_{top}_{name}" for name in RANGES for top in FRACTIONS),
)


def precision_at(scores: NDArray[np.floating], contacts: NDArray[np.bool_], count: int) -> float:
    """Return the share of contacts among the `count` highest `scores`, both `[pairs]`.

    Where equal scores straddle the cut, they count by expectation: the precision is the mean over
    all orders of the tied pairs. The denominator stays `count` where there are fewer pairs, as in
    the published metric. NaN where there is no pair or `count` is zero.
    """
    if count < 1 or scores.size == 0:
        return float("nan")
    if count >= scores.size:
        return float(contacts.sum() / count)
    cut = np.partition(scores, scores.size - count)[scores.size - count]
    above, tied = scores > cut, scores == cut
    share_of_tied = (count - above.sum()) / tied.sum()
    return float((contacts[above].sum() + share_of_tied * contacts[tied].sum()) / count)


def contact_precisions(
    scores: NDArray[np.floating], contacts: NDArray[np.bool_], observed: NDArray[np.bool_]
) -> dict[str, float]:
    """Return every one of `PRECISIONS` for one protein.

    `precision_at_L2_long` is the precision of the floor(L/2) best pairs at long range, L being the
    length of the sequence; `precision_at_contacts` that of as many best pairs as there are true
    contacts, at every separation from 6. NaN where a range holds no pair, or the protein no
    contact.

    Args:
        scores: scores `[length, length]`, higher for likelier contacts; only i < j is read.
        contacts: true contacts, `[length, length]`.
        observed: residues with coordinates, `[length]`; others are in no pair but count in L.
    """
    pairs = pair_mask(observed)
    count = int(contacts[pairs].sum())
    precisions = {"precision_at_contacts": precision_at(scores[pairs], contacts[pairs], count)}
    for name, (first, beyond) in RANGES.items():
        pairs = pair_mask(observed, first, beyond)
        in_range, true = scores[pairs], contacts[pairs]
        for top, divisor in FRACTIONS.items():
            count = observed.size // divisor
            precisions[f"precision_at_{top}_{name}"] = precision_at(in_range, true, count)
    return precisions
