"""The best possible predictions of masked residues, for synthetic families."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from esm1b.alphabet import FIRST_AMINO_ACID
from esm1b.synthetic.families import SyntheticFamily
from esm1b.synthetic.potts import STATES

# Sequences at a time: beliefs of 50 sites in float64 are 8 kB a sequence and family.
_CHUNK: Final = 1_000


@dataclass(frozen=True, kw_only=True)
class ExactPredictions:
    """Log probabilities (nats) of the 20 amino acids at each missing position.

    Rows are the missing positions, sequence by sequence and in order within each; columns are in
    the order of `esm1b.alphabet.AMINO_ACIDS`.
    """

    exact_optimum: NDArray[np.float64]
    """`[missing, 20]`, by Bayes' rule from everything visible: nothing predicts better."""
    site_independent: NDArray[np.float64]
    """`[missing, 20]`, likewise, knowing every family's profile but no couplings: the best that
    treats the sites of a family as independent."""


def exact_predictions(
    families: Sequence[SyntheticFamily],
    sequences: Sequence[NDArray[np.uint8]],
    missing: Sequence[NDArray[np.bool_]],
) -> ExactPredictions:
    """Return the exact probabilities at the missing positions, given length and visible residues.

    A sequence may come from any corpus family of its length, all equally likely a priori. The
    predictions of the families are averaged with their probability given the visible residues.

    Args:
        families: families of `load_truth`; the unseen ones are not used.
        sequences: residue tokens, `[length]` each.
        missing: masks, `[length]` each, true at the positions to predict; the tokens there are
            ignored.

    Raises:
        ValueError: no corpus family has the length of a sequence, a mask has another length, or a
            visible token is not one of the 20 amino acids.
    """
    shapes = [len(sequence) for sequence in sequences]
    starts = np.concatenate([[0], np.cumsum([int(mask.sum()) for mask in missing])])
    optimum = np.empty((int(starts[-1]), STATES))
    independent = np.empty_like(optimum)
    for length in sorted(set(shapes)):
        candidates = [f for f in families if f.kind != "unseen" and f.potts.length == length]
        if not candidates:
            raise ValueError(f"no family in the corpus has {length} residues")
        same = [index for index, shape in enumerate(shapes) if shape == length]
        for chunk in (same[start : start + _CHUNK] for start in range(0, len(same), _CHUNK)):
            mask = np.stack([missing[index] for index in chunk])
            # below the first amino acid, uint8 wraps around to values that are refused
            residues = np.stack([sequences[index] for index in chunk]) - np.uint8(FIRST_AMINO_ACID)
            rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in chunk])
            sequence, site = np.nonzero(mask)
            exact = [family.potts.conditionals(residues, mask) for family in candidates]
            optimum[rows] = _mixture(
                [log_evidence for log_evidence, _ in exact],
                [probabilities[mask] for _, probabilities in exact],
                sequence,
            )
            profiles = [family.potts.marginals for family in candidates]
            visible = np.arange(length), np.where(mask, 0, residues)
            independent[rows] = _mixture(
                [np.where(mask, 0.0, np.log(profile)[visible]).sum(axis=1) for profile in profiles],
                [profile[site] for profile in profiles],
                sequence,
            )
    return ExactPredictions(exact_optimum=optimum, site_independent=independent)


def _mixture(
    log_evidence: Sequence[NDArray[np.float64]],
    probabilities: Sequence[NDArray[np.float64]],
    sequence: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Return log probabilities `[missing, 20]`: the average of the families' predictions.

    Args:
        log_evidence: `[sequences]` for each family.
        probabilities: `[missing, 20]` for each family.
        sequence: `[missing]` number of the sequence of each missing position.
    """
    evidence = np.stack(log_evidence)
    weight = np.exp(evidence - evidence.max(axis=0))
    weight /= weight.sum(axis=0)
    return np.asarray(np.log(np.einsum("fm,fma->ma", weight[:, sequence], np.stack(probabilities))))
