"""Protein families drawn at random, with the whole truth about each."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from esm1b.errors import UserError
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

_SHORTEST: Final = 30  # residues: room for two strands, a helix and the loops between them

# What a contact adds to the log-potential (nats) of complementary residues.
_COUPLING: Final = 4.0
# Weight of the logarithm of the secondary-structure propensities.
_PROPENSITY: Final = 0.7
# Weight (nats per standard deviation of hydrophobicity) of the inward and outward faces of helices
# and strands.
_PERIODICITY: Final = 1.8
# Standard deviation (nats) of a family's own preference for each residue at each site.
_PREFERENCE: Final = 0.2


@dataclass(frozen=True, kw_only=True)
class SyntheticSettings:
    """Number and kind of the families to draw, and number of sequences of each.

    Attributes:
        families: families in the corpus: every other one for fitting probes, the rest for testing
            them.
        unseen_families: families that are not in the corpus.
        sequences: sequences of each corpus family in the corpus.
        members: sequences of each family in the structure table, none of them in the corpus.
        minimum_length: least residues of a family.
        maximum_length: most residues of a family.
        seed: random seed.

    Raises:
        UserError: a number is out of range; the message names it.
    """

    families: int = 16
    unseen_families: int = 6
    sequences: int = 2_000
    members: int = 8
    minimum_length: int = 34
    maximum_length: int = 46
    seed: int = 0

    def __post_init__(self) -> None:
        least_values = {
            **{"families": 2, "sequences": 1, "members": 1},
            **{"minimum_length": _SHORTEST, "maximum_length": self.minimum_length},
        }
        for name, value in vars(self).items():
            least = least_values.get(name, 0)
            if value < least:
                raise UserError(f"synthetic data: {name} is {value}; expected {least} or more")


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


def draw_families(settings: SyntheticSettings) -> list[SyntheticFamily]:
    """Draw the corpus families, fit and test in turn, then the unseen ones.

    Every family has at least 20 % of each of helix, strand and coil, and its contacts are a forest
    of separation 6 or more with at most two contacts per residue.
    """
    kinds: list[tuple[str, FamilyKind]] = [
        (f"family-{index:02d}", "test" if index % 2 else "fit")
        for index in range(settings.families)
    ]
    kinds += [(f"unseen-{index:02d}", "unseen") for index in range(settings.unseen_families)]
    return [
        _draw_family(name, kind, settings, random_stream(settings.seed, 0, index))
        for index, (name, kind) in enumerate(kinds)
    ]


def random_stream(seed: int, *key: int) -> np.random.Generator:
    """Return one of a seed's independent streams: what one draws does not move another."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _draw_family(
    name: str, kind: FamilyKind, settings: SyntheticSettings, generator: np.random.Generator
) -> SyntheticFamily:
    length = int(generator.integers(settings.minimum_length, settings.maximum_length + 1))
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
