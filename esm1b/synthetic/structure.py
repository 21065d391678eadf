"""Secondary structure and contacts of a synthetic family, and the residues that each favors."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from Bio.SeqUtils.ProtParamData import kd
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet

from esm1b.alphabet import AMINO_ACIDS

# Conformational parameters of 29 proteins: P. Y. Chou and G. D. Fasman, "Prediction of the
# secondary structure of proteins from their amino acid sequence", Adv. Enzymol. 47 (1978) 45-148.
# Times 100; helix, strand, and for coil their beta-turn.
_CHOU_FASMAN: Final = {
    #      L   A   G   V   S   E   R   T   I   D   P   K   Q   N   F   Y   M   H   W   C
    "H": "121 142  57 106  77 151  98  83 108 101  57 116 111  67 113  69 145 100 108  70",
    "E": "130  83  75 170  75  37  93 119 160  54  55  74 110  89 138 147 105  87 137 119",
    "C": " 59  66 156  50 143  74  95  96  47 146 152 101  98 156  60 114  60  95  96 119",
}

PROPENSITIES: Final[dict[str, NDArray[np.float64]]] = {
    state: np.array([int(parameter) for parameter in row.split()]) / 100
    for state, row in _CHOU_FASMAN.items()
}
"""For each of H, E and C, `[20]`: frequency of a residue there over its frequency anywhere."""

# J. Kyte and R. F. Doolittle, "A simple method for displaying the hydropathic character of a
# protein", J. Mol. Biol. 157 (1982) 105-132
_HYDROPATHY: Final = np.array([kd[symbol] for symbol in AMINO_ACIDS])

HYDROPHOBICITY: Final[NDArray[np.float64]] = (_HYDROPATHY - _HYDROPATHY.mean()) / _HYDROPATHY.std()
"""`[20]`, mean 0 and standard deviation 1 over the amino acids; positive is hydrophobic."""

# Least share of each of H, E and C in every family.
_MINIMUM_SHARE: Final = 0.2

# Usual segment lengths, both ends included, cut to what fits about 40 residues three to five times:
# helices of two to four turns, strands of four to seven residues, loops of two to six.
_SEGMENT_LENGTHS: Final = {"H": (7, 14), "E": (4, 7), "C": (2, 6)}

# A helix turns 100 degrees per residue (3.6 residues a turn), a strand about 180.
_TURN: Final = {"H": np.deg2rad(100.0), "E": np.pi}

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


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A run of residues, `start` to `stop - 1`, of one secondary structure (H, E or C)."""

    start: int
    stop: int
    state: str


def draw_segments(length: int, generator: np.random.Generator) -> list[Segment]:
    """Draw helices and strands with coil before, between and after them, `length` residues in all.

    Layouts are drawn until every class has at least 20 % of the residues and there are
    at least two strands (one strand alone pairs with nothing).
    """
    while True:
        states = ["C"]
        sizes = [_draw_size("C", generator)]
        while sum(sizes) < length:
            for state in ("H" if generator.random() < 0.5 else "E", "C"):
                states.append(state)
                sizes.append(_draw_size(state, generator))
        segments = list(zip(states, sizes, strict=True))
        ss3 = "".join(state * size for state, size in segments)
        least = min(map(ss3.count, "HEC"))
        if len(ss3) == length and states.count("E") >= 2 and least >= _MINIMUM_SHARE * length:
            stops = np.cumsum(sizes).tolist()
            return [
                Segment(start=stop - size, stop=stop, state=state)
                for (state, size), stop in zip(segments, stops, strict=True)
            ]


def _draw_size(state: str, generator: np.random.Generator) -> int:
    low, high = _SEGMENT_LENGTHS[state]
    return int(generator.integers(low, high + 1))


def segment_string(segments: list[Segment]) -> str:
    """Return the secondary structure as one letter (H, E or C) per residue."""
    return "".join(segment.state * (segment.stop - segment.start) for segment in segments)


def hydrophobic_phase(
    segments: list[Segment], generator: np.random.Generator
) -> NDArray[np.float64]:
    """Return the direction of each site, `[length]`, from -1 (outside) to 1 (inside); coil 0.

    The cosine of the angle around the segment's axis. The inner face of a helix, and the inner one
    of the two alternating faces of a strand, is drawn for every segment.
    """
    phase = np.zeros(segments[-1].stop)
    for segment in segments:
        if segment.state != "C":
            turn = _TURN[segment.state]
            start = generator.uniform(0, 2 * np.pi) if segment.state == "H" else 0.0
            start += np.pi * generator.integers(2)
            phase[segment.start : segment.stop] = np.cos(
                start + turn * np.arange(segment.stop - segment.start)
            )
    return phase


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
