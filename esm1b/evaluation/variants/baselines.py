"""Predictions without a network: substitution matrix, composition, and the position itself.

Each is float64 `[variants]`, the higher the fitter.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from Bio.Align import substitution_matrices

from esm1b.alphabet import AMINO_ACIDS
from esm1b.evaluation.bootstrap import Values
from esm1b.evaluation.variants.assays import Assay
from esm1b.scoring.mutations import Variant


def blosum62(variants: Sequence[Variant]) -> Values:
    """Return the sum of BLOSUM62's entries (Henikoff and Henikoff 1992) over the mutations."""
    matrix = substitution_matrices.load("BLOSUM62")
    return np.array(
        [sum(matrix[each.wild_type, each.mutant] for each in v.mutations) for v in variants]
    )


def residue_frequencies(variants: Sequence[Variant], wild_types: Iterable[str]) -> Values:
    """Return log f(mutant) - log f(wild type), summed, f being the composition of the wild types.

    One residue of each kind is added to the counts.
    """
    text = "".join(wild_types)
    logs = {letter: np.log(1 + text.count(letter)) for letter in AMINO_ACIDS}
    return np.array(
        [
            sum(logs[each.mutant] - logs.get(each.wild_type, 0.0) for each in v.mutations)
            for v in variants
        ]
    )


def position_mean(assay: Assay) -> Values:
    """Return the mean effect of the *other* variants mutated at the same position.

    The mean of these means over the positions of a variant; a position without other variants has
    the mean of all other variants. It knows the measurements: what it gains comes from the
    positions alone, nothing from the residues.
    """
    counts = assay.mutations
    owner = np.repeat(np.arange(len(counts)), counts)
    positions = [each.position for variant in assay.variants for each in variant.mutations]
    effects = assay.measured[owner]
    others = np.bincount(positions)[positions] - 1
    sums = np.bincount(positions, effects)[positions] - effects
    overall = (assay.measured.sum() - effects) / (len(counts) - 1)
    means = np.where(others > 0, sums / np.maximum(others, 1), overall)
    result: Values = np.bincount(owner, means) / counts
    return result
