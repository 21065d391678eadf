"""Contacts of a synthetic family, and the pairs of residues that a contact favors."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet

from esm1b.alphabet import AMINO_ACIDS
from esm1b.synthetic.secondary_structure import Segment

_MINIMUM_SEPARATION: Final = 6
_MAXIMUM_DEGREE: Final = 2

# Every residue has exactly two partners, so that between sites without preferences a contact leaves
# each residue at 1/20 at each end: it shows in pairs, never in a profile.
COMPLEMENTARY: Final = (
    *("KD", "KE", "RD", "RE"),  # opposite charges
    *("LI", "IV", "VL"),  # aliphatic side chains
    *("FA", "AW", "WG", "GY", "YP", "PF"),  # a ring beside a small residue or proline
    *("SN", "NT", "TQ", "QS"),  # hydroxyl to amide
    *("CH", "HM", "MC"),  # ligands of one metal ion
)
"""Unordered pairs of residues that a contact favors."""

# Nearest neighbours on one face of a helix are a turn apart: 3.6 residues.
_HELIX_TURN: Final = 3.6
_ATTEMPTS: Final = 200


def complementarity() -> NDArray[np.float64]:
    """Return the symmetric matrix `[20, 20]`, 1 for complementary residues and 0 for others."""
    matrix = np.zeros((len(AMINO_ACIDS), len(AMINO_ACIDS)))
    for pair in COMPLEMENTARY:
        first, second = (AMINO_ACIDS.index(symbol) for symbol in pair)
        matrix[first, second] = matrix[second, first] = 1.0
    return matrix


def draw_contacts(
    segments: list[Segment], facing: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draw a forest of contacts between segments, `[contacts, 2]`, sorted.

    Two segments pair antiparallel, strands residue by residue and helices turn by turn, until the
    family has a number of contacts drawn from a third to a half of its length. Helices and strands
    come first, then loops as well. Only when there are too few residues without a contact does a
    residue get a second one, which correlates residues that are not in contact. The two residues of
    a contact never face opposite sides.

    `facing` has the direction of each site, `[length]`, from -1 (outside) to 1 (inside); loops 0.
    """
    length = segments[-1].stop
    wanted = int(generator.integers(-(-length // 3), length // 2 + 1))
    structured = [segment for segment in segments if segment.state != "C"]
    contacts: list[tuple[int, int]] = []
    trees = DisjointSet(range(length))
    degrees = [0] * length
    for choice, degree in ((structured, 1), (segments, 1), (segments, _MAXIMUM_DEGREE)):
        for _ in range(_ATTEMPTS):
            if len(contacts) == wanted:
                break
            first, second = sorted(generator.choice(len(choice), size=2, replace=False).tolist())
            ascending, descending = (_face(choice[one], generator) for one in (first, second))
            # antiparallel, from a random place in the second
            offset = int(generator.integers(len(descending)))
            for i, j in zip(ascending, descending[::-1][offset:], strict=False):
                if (
                    len(contacts) < wanted
                    and facing[i] * facing[j] >= 0
                    and j - i >= _MINIMUM_SEPARATION
                    and max(degrees[i], degrees[j]) < degree
                    and trees.merge(i, j)  # False if it would close a cycle
                ):
                    contacts.append((i, j))
                    degrees[i] += 1
                    degrees[j] += 1
    return np.array(sorted(contacts), dtype=np.int64).reshape(-1, 2)


def _face(segment: Segment, generator: np.random.Generator) -> list[int]:
    """Return the residues on one side: every one of a strand or loop, one a turn of a helix."""
    sites = np.arange(segment.start, segment.stop, dtype=np.float64)
    if segment.state == "H":
        sites = np.arange(segment.start + generator.integers(4), segment.stop - 0.5, _HELIX_TURN)
    return [int(site) for site in np.round(sites)]
