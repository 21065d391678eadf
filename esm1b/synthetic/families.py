"""Protein families drawn at random, with the whole truth about each."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from esm1b.synthetic.potts import PottsForest
from esm1b.synthetic.structure import (
    HYDROPHOBICITY,
    PROPENSITIES,
    complementarity,
    draw_contacts,
    draw_segments,
    hydrophobic_phase,
    segment_string,
)

FamilyKind = Literal["fit", "test", "unseen"]
"""In the corpus and used to fit probes; in the corpus and used to test them; not in the corpus."""

LENGTHS: Final = range(34, 47)
"""Residues of a family: at least 30, room for two strands, a helix and the loops between them."""

# What a contact adds to the log-potential (nats) of complementary residues.
_COUPLING: Final = 4.0
# Weight of the logarithm of the secondary-structure propensities.
_PROPENSITY: Final = 0.7
# Weight (nats per standard deviation of hydrophobicity) of the inward and outward faces of helices
# and strands.
_PERIODICITY: Final = 1.8
# Standard deviation (nats) of a family's own preference for each residue at each site.
_PREFERENCE: Final = 0.2


@dataclass(frozen=True, kw_only=True, eq=False)
class SyntheticFamily:
    """A family and the whole truth about it.

    Attributes:
        ss3: one letter per residue: H (helix), E (strand) or C (coil).
        potts: model that the sequences are drawn from; its edges are the contacts.
    """

    name: str
    kind: FamilyKind
    ss3: str
    potts: PottsForest


def draw_families(
    families: int = 16, unseen_families: int = 6, *, lengths: range = LENGTHS, seed: int = 1
) -> list[SyntheticFamily]:
    """Draw the corpus families, fit and test in turn, then the unseen ones.

    Every family has at least 20 % of each of helix, strand and coil, and its contacts are a forest
    of separation 6 or more with at most two contacts per residue.
    """
    kinds: list[tuple[str, FamilyKind]] = [
        (f"family-{index:02d}", "test" if index % 2 else "fit") for index in range(families)
    ]
    kinds += [(f"unseen-{index:02d}", "unseen") for index in range(unseen_families)]
    return [
        _draw_family(name, kind, lengths, random_stream(seed, 0, index))
        for index, (name, kind) in enumerate(kinds)
    ]


def random_stream(seed: int, *key: int) -> np.random.Generator:
    """Return one of a seed's independent streams: what one draws does not move another."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _draw_family(
    name: str, kind: FamilyKind, lengths: range, generator: np.random.Generator
) -> SyntheticFamily:
    length = int(generator.integers(lengths.start, lengths.stop))
    segments = draw_segments(length, generator)
    ss3 = segment_string(segments)
    facing = hydrophobic_phase(segments, generator)
    edges = draw_contacts(segments, facing, generator)
    fields = (
        _PROPENSITY * np.log(np.stack([PROPENSITIES[state] for state in ss3]))
        + _PERIODICITY * np.outer(facing, HYDROPHOBICITY)
        + _PREFERENCE * generator.standard_normal((length, len(HYDROPHOBICITY)))
    )
    couplings = np.tile(_COUPLING * complementarity(), (len(edges), 1, 1))
    return SyntheticFamily(
        name=name,
        kind=kind,
        ss3=ss3,
        potts=PottsForest(fields=fields, edges=edges, couplings=couplings),
    )
