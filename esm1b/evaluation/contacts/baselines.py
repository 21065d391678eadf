"""Contact scores that ignore the sequence: separation, and the mean map of other proteins."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from esm1b.evaluation.structures.geometry import MINIMUM_SEPARATION, pair_mask
from esm1b.evaluation.structures.proteins import Protein

_WINDOW: Final = 2  # separations pooled on each side
_PSEUDO_PAIRS: Final = 10.0  # pairs at the overall density, to smooth rare separations
_PRIOR_WEIGHT: Final = 1.0  # the prior counts as one group in the mean map


def separation_prior(proteins: Sequence[Protein]) -> NDArray[np.float64]:
    """Return the frequency of contacts by separation `[longest separation + 1]`.

    Each separation is pooled with its two neighbours on either side and drawn a little towards the
    overall density. Separations below 6 are zero. Needs a pair at separation 6 or more.
    """
    longest = max(protein.residues.size for protein in proteins)
    pairs, contacts = np.zeros(longest), np.zeros(longest)
    for protein in proteins:
        first, second = np.nonzero(pair_mask(protein.observed))
        pairs += np.bincount(second - first, minlength=longest)
        in_contact = protein.contact_map()[first, second]
        contacts += np.bincount((second - first)[in_contact], minlength=longest)
    window = np.ones(2 * _WINDOW + 1)
    pooled_pairs = np.convolve(pairs, window)[_WINDOW : _WINDOW + longest]
    pooled_contacts = np.convolve(contacts, window)[_WINDOW : _WINDOW + longest]
    density = contacts.sum() / max(pairs.sum(), 1)
    prior = (pooled_contacts + _PSEUDO_PAIRS * density) / (pooled_pairs + _PSEUDO_PAIRS)
    prior[:MINIMUM_SEPARATION] = 0
    reached: NDArray[np.float64] = prior[: np.flatnonzero(pairs).max() + 1]
    return reached


def separation_map(prior: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Return the prior as a map `[length, length]`; its last value holds beyond its end."""
    position = np.arange(length)
    separation = np.abs(position[None, :] - position[:, None])
    as_map: NDArray[np.float64] = prior[np.minimum(separation, prior.size - 1)]
    return as_map


def mean_map(
    proteins: Sequence[Protein], prior: NDArray[np.float64], length: int
) -> NDArray[np.float64]:
    """Return the mean contact map of the groups of `proteins`, `[length, length]`.

    A group counts once however many members it has, at the pairs that it observes. The separation
    prior counts as one more group: beyond the longest protein it is all there is.
    """
    members = Counter(protein.group for protein in proteins)
    contacts = _PRIOR_WEIGHT * separation_map(prior, length)
    weights = np.full((length, length), _PRIOR_WEIGHT)
    for protein in proteins:
        reach = min(length, protein.residues.size)
        observed = protein.observed[:reach, None] & protein.observed[None, :reach]
        share = 1 / members[protein.group]
        contacts[:reach, :reach] += share * (protein.contact_map()[:reach, :reach] & observed)
        weights[:reach, :reach] += share * observed
    mean: NDArray[np.float64] = contacts / weights
    return mean
