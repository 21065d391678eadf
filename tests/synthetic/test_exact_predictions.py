import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from esm1b.alphabet import FIRST_AMINO_ACID, X
from esm1b.synthetic.exact_predictions import exact_predictions
from esm1b.synthetic.families import SyntheticFamily, draw_families
from esm1b.synthetic.potts import PottsForest
from tests.synthetic.forests import log_probability


def draw_masked(
    families: list[SyntheticFamily], count: int, seed: int
) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.bool_]], NDArray[np.int64]]:
    """Sequences of the corpus families, 15 % masks and the amino acids under them."""
    generator = np.random.default_rng(seed)
    sequences, masks, targets = [], [], []
    for family in families:
        if family.kind != "unseen":
            for residues in family.potts.sample(count, generator):
                mask = generator.random(len(residues)) < 0.15
                sequences.append(residues + np.uint8(FIRST_AMINO_ACID))
                masks.append(mask)
                targets.append(residues[mask])
    return sequences, masks, np.concatenate(targets).astype(np.int64)


def small_family(name: str, seed: int, edges: list[tuple[int, int]]) -> SyntheticFamily:
    generator = np.random.default_rng(seed)
    potts = PottsForest(
        fields=generator.standard_normal((8, 20)),
        edges=np.array(edges),
        couplings=2 * generator.standard_normal((len(edges), 20, 20)),
    )
    return SyntheticFamily(name=name, kind="fit", ss3="C" * 8, potts=potts)


def test_two_families_of_one_length_by_direct_summation() -> None:
    families = [small_family("a", 1, [(0, 6), (1, 7)]), small_family("b", 2, [(0, 7)])]
    generator = np.random.default_rng(3)
    residues = generator.integers(20, size=8).astype(np.uint8)
    missing = np.zeros(8, dtype=np.bool_)
    missing[[0, 7]] = True
    result = exact_predictions(families, [residues + np.uint8(FIRST_AMINO_ACID)], [missing])
    # all 400 completions, with their probability in the even mixture of both families
    completions = np.tile(residues, (400, 1))
    completions[:, 0], completions[:, 7] = np.divmod(np.arange(400), 20)
    weight = sum(np.exp(log_probability(f.potts, completions)) for f in families)
    joint = np.reshape(weight, (20, 20)) / np.sum(weight)
    np.testing.assert_allclose(np.exp(result.exact_optimum[0]), joint.sum(axis=1), atol=1e-12)
    np.testing.assert_allclose(np.exp(result.exact_optimum[1]), joint.sum(axis=0), atol=1e-12)
    seen = [np.prod(f.potts.marginals[range(1, 7), residues[1:7]]) for f in families]
    profile = (
        seen[0] * families[0].potts.marginals[0] + seen[1] * families[1].potts.marginals[0]
    ) / sum(seen)
    np.testing.assert_allclose(np.exp(result.site_independent[0]), profile, atol=1e-12)


@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=5)
def test_the_optimum_is_better_than_site_independent(seed: int) -> None:
    families = draw_families(families=4, unseen_families=1, seed=seed)
    sequences, masks, targets = draw_masked(families, 60, seed)
    result = exact_predictions(families, sequences, masks)
    rows = np.arange(len(targets))
    assert result.exact_optimum.shape == result.site_independent.shape == (len(targets), 20)
    for log_probabilities in (result.exact_optimum, result.site_independent):
        np.testing.assert_allclose(np.exp(log_probabilities).sum(axis=1), 1, atol=1e-9)
    optimum = -result.exact_optimum[rows, targets].mean()
    independent = -result.site_independent[rows, targets].mean()
    assert optimum < independent - 0.3


def test_the_default_gap_between_the_optimum_and_site_independent() -> None:
    families = draw_families()
    sequences, masks, targets = draw_masked(families, 50, 0)
    result = exact_predictions(families, sequences, masks)
    rows = np.arange(len(targets))
    assert 4.5 < np.exp(-result.exact_optimum[rows, targets].mean()) < 6
    assert 9.5 < np.exp(-result.site_independent[rows, targets].mean()) < 12


def test_rows_follow_the_order_of_the_sequences() -> None:
    families = draw_families(families=3, unseen_families=0)
    sequences, masks, _ = draw_masked(families, 3, 1)
    together = exact_predictions(families, sequences, masks)
    alone = [
        exact_predictions(families, [sequence], [mask])
        for sequence, mask in zip(sequences, masks, strict=True)
    ]
    np.testing.assert_allclose(
        together.exact_optimum, np.concatenate([result.exact_optimum for result in alone])
    )
    order = np.arange(len(sequences))[::-1]
    backwards = exact_predictions(
        families, [sequences[i] for i in order], [masks[i] for i in order]
    )
    np.testing.assert_allclose(
        backwards.exact_optimum, np.concatenate([alone[i].exact_optimum for i in order])
    )


def test_input_that_is_refused() -> None:
    family = small_family("a", 1, [(0, 6)])
    residues = np.full(8, FIRST_AMINO_ACID, dtype=np.uint8)
    nothing = np.zeros(8, dtype=np.bool_)
    with pytest.raises(ValueError, match="no family in the corpus has 7 residues"):
        exact_predictions([family], [residues[:7]], [nothing[:7]])
    with pytest.raises(ValueError, match=r"missing \(1, 7\): expected"):
        exact_predictions([family], [residues], [nothing[:7]])
    for token in (X, 0):
        wrong = residues.copy()
        wrong[3] = token
        with pytest.raises(ValueError, match="observed residue"):
            exact_predictions([family], [wrong], [nothing])
