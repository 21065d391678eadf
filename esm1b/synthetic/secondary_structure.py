"""Secondary structure of a synthetic family, and the residue preferences that go with it."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from esm1b.alphabet import AMINO_ACIDS

# Conformational parameters of 29 proteins: P. Y. Chou and G. D. Fasman, "Prediction of the
# secondary structure of proteins from their amino acid sequence", Adv. Enzymol. 47 (1978) 45-148.
# Times 100; helix, strand, and for coil their beta-turn.
_CHOU_FASMAN: Final = {
    "A": (142, 83, 66),
    "R": (98, 93, 95),
    "N": (67, 89, 156),
    "D": (101, 54, 146),
    "C": (70, 119, 119),
    "Q": (111, 110, 98),
    "E": (151, 37, 74),
    "G": (57, 75, 156),
    "H": (100, 87, 95),
    "I": (108, 160, 47),
    "L": (121, 130, 59),
    "K": (116, 74, 101),
    "M": (145, 105, 60),
    "F": (113, 138, 60),
    "P": (57, 55, 152),
    "S": (77, 75, 143),
    "T": (83, 119, 96),
    "W": (108, 137, 96),
    "Y": (69, 147, 114),
    "V": (106, 170, 50),
}

# Hydropathy: J. Kyte and R. F. Doolittle, "A simple method for displaying the hydropathic character
# of a protein", J. Mol. Biol. 157 (1982) 105-132.
_KYTE_DOOLITTLE: Final = {
    "A": 1.8,
    "R": -4.5,
    "N": -3.5,
    "D": -3.5,
    "C": 2.5,
    "Q": -3.5,
    "E": -3.5,
    "G": -0.4,
    "H": -3.2,
    "I": 4.5,
    "L": 3.8,
    "K": -3.9,
    "M": 1.9,
    "F": 2.8,
    "P": -1.6,
    "S": -0.8,
    "T": -0.7,
    "W": -0.9,
    "Y": -1.3,
    "V": 4.2,
}


def _standardised(scale: dict[str, float]) -> NDArray[np.float64]:
    values = np.array([scale[symbol] for symbol in AMINO_ACIDS])
    return np.asarray((values - values.mean()) / values.std())


PROPENSITIES: Final[dict[str, NDArray[np.float64]]] = {
    state: np.array([_CHOU_FASMAN[symbol][column] / 100 for symbol in AMINO_ACIDS])
    for column, state in enumerate("HEC")
}
"""For each of H, E and C, `[20]`: how much more frequent a residue is there than anywhere."""

HYDROPHOBICITY: Final = _standardised(_KYTE_DOOLITTLE)
"""`[20]`, mean 0 and standard deviation 1 over the amino acids; positive is hydrophobic."""

MINIMUM_SHARE: Final = 0.2
"""Every family has at least this share of each of H, E and C."""

# Usual segment lengths, both ends included, cut to what fits about 40 residues three to five times:
# helices of two to four turns, strands of four to seven residues, loops of two to six.
_SEGMENT_LENGTHS: Final = {"H": (7, 14), "E": (4, 7), "C": (2, 6)}

# A helix turns 100 degrees per residue (3.6 residues a turn), a strand about 180.
_TURN: Final = {"H": np.deg2rad(100.0), "E": np.pi}


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A run of residues, `start` to `stop - 1`, of one secondary structure (H, E or C)."""

    start: int
    stop: int
    state: str


def draw_segments(length: int, generator: np.random.Generator) -> list[Segment]:
    """Draw helices and strands with coil before, between and after them, `length` residues in all.

    Layouts are drawn until every class has at least `MINIMUM_SHARE` of the residues and there are
    at least two strands (one strand alone pairs with nothing).
    """
    while True:
        states = ["C"]
        sizes = [_draw_size("C", generator)]
        while sum(sizes) < length:
            for state in ("H" if generator.random() < 0.5 else "E", "C"):
                states.append(state)
                sizes.append(_draw_size(state, generator))
        share = {
            state: sum(n for n, s in zip(sizes, states, strict=True) if s == state)
            for state in "HEC"
        }
        if (
            sum(sizes) == length
            and states.count("E") >= 2
            and min(share.values()) >= MINIMUM_SHARE * length
        ):
            stops = np.cumsum(sizes).tolist()
            return [
                Segment(start=stop - size, stop=stop, state=state)
                for size, stop, state in zip(sizes, stops, states, strict=True)
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
    """Return how far each site points to the protein's inside, `[length]`, from -1 to 1; coil 0.

    The cosine of the angle around the segment's axis: which face of a helix is inside, and which
    of two alternating faces of a strand, is drawn for every segment.
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
