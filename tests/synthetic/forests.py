"""Probabilities of a Potts forest in the plainest arithmetic, to check others with."""

import numpy as np
from numpy.typing import NDArray

from esm1b.synthetic.potts import STATES, PottsForest


def log_probability(forest: PottsForest, sequences: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the log probability (nats) `[sequences]` of `sequences` `[sequences, length]`."""
    score = forest.fields[np.arange(forest.length), sequences].sum(axis=1)
    for edge, (first, second) in enumerate(forest.edges):
        score = score + forest.couplings[edge, sequences[:, first], sequences[:, second]]
    return np.asarray(score - forest.log_partition)


def pair_marginals(forest: PottsForest) -> NDArray[np.float64]:
    """Return the joint probability of the residues at both ends of each edge, `[edges, 20, 20]`."""
    pairs = np.zeros((len(forest.edges), STATES, STATES))
    for edge, (first, second) in enumerate(forest.edges):
        # p(first) p(second | first), each residue at the first site in turn
        sequences = np.zeros((STATES, forest.length), dtype=np.uint8)
        sequences[:, first] = np.arange(STATES)
        missing = np.ones(sequences.shape, dtype=np.bool_)
        missing[:, first] = False
        given = forest.conditionals(sequences, missing)[1][:, second]
        pairs[edge] = forest.marginals[first, :, None] * given
    return pairs
