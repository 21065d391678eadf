import numpy as np
import pytest

from esm1b.evaluation.variants.baselines import blosum62, position_mean, residue_frequencies
from tests.evaluation.variants.made_assays import assay, variants


def test_blosum62_is_summed_over_the_mutations() -> None:
    # rows and columns of the published matrix: A-G 0, W-A -3, I-V 3
    assert blosum62(variants("AWI", "A1G", "W2A", "I3V", "W2A:I3V")).tolist() == [0, -3, 3, 0]


def test_frequencies_are_those_of_the_wild_types() -> None:
    found = residue_frequencies(variants("AAC", "A1C", "C3A", "C3W"), ["AAC"])
    # one more of each: A 3, C 2, W 1
    assert found == pytest.approx(np.log([2 / 3, 3 / 2, 1 / 2]))


def test_a_wild_type_residue_that_is_no_amino_acid_has_no_frequency() -> None:
    assert residue_frequencies(variants("AXA", "X2A"), ["AXA"]) == pytest.approx(np.log([3]))


def test_the_mean_of_a_position_leaves_the_variant_out() -> None:
    made = assay("AAA", {"A1C": 1.0, "A1D": 2.0, "A1E": 6.0, "A2C": 7.0})
    # A2C is alone at its position: the mean of all others
    assert position_mean(made).tolist() == [4.0, 3.5, 1.5, 3.0]


def test_a_double_mutant_has_the_mean_of_its_positions() -> None:
    made = assay("AAA", {"A1C": 1.0, "A2C": 3.0, "A1D:A2D": 8.0})
    assert position_mean(made).tolist() == [8.0, 8.0, 2.0]
