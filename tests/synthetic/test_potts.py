import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from esm1b.synthetic.potts import STATES, PottsForest
from tests.synthetic.forests import log_probability, pair_marginals


def random_forest(seed: int, length: int, *, scale: float = 2.0) -> PottsForest:
    """Each site but the first joins an earlier one, or none."""
    generator = np.random.default_rng(seed)
    edges = [
        (int(generator.integers(site)), site)
        for site in range(1, length)
        if generator.random() < 0.75
    ]
    return PottsForest(
        fields=scale * generator.standard_normal((length, STATES)),
        edges=np.array(edges, dtype=np.int64).reshape(-1, 2),
        couplings=scale * generator.standard_normal((len(edges), STATES, STATES)),
    )


def enumerate_log_weights(forest: PottsForest) -> NDArray[np.float64]:
    """Log weight of every sequence, one axis of 20 per site."""
    total = np.zeros((STATES,) * forest.length)
    for site in range(forest.length):
        shape = [1] * forest.length
        shape[site] = STATES
        total = total + forest.fields[site].reshape(shape)
    for (first, second), coupling in zip(forest.edges, forest.couplings, strict=True):
        shape = [1] * forest.length
        shape[first] = shape[second] = STATES
        total = total + coupling.reshape(shape)
    return total


forests = st.builds(random_forest, st.integers(0, 10_000), st.integers(1, 3))


@given(forest=forests)
@settings(deadline=None, max_examples=40)
def test_partition_and_marginals_equal_enumeration(forest: PottsForest) -> None:
    weights = np.exp(enumerate_log_weights(forest))
    assert forest.log_partition == pytest.approx(np.log(weights.sum()), abs=1e-10)
    joint = weights / weights.sum()
    for site in range(forest.length):
        others = tuple(axis for axis in range(forest.length) if axis != site)
        np.testing.assert_allclose(forest.marginals[site], joint.sum(axis=others), atol=1e-12)
    for (first, second), pair in zip(forest.edges, pair_marginals(forest), strict=True):
        others = tuple(axis for axis in range(forest.length) if axis not in (first, second))
        np.testing.assert_allclose(pair, joint.sum(axis=others), atol=1e-12)


@given(forest=forests, seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=40)
def test_conditionals_and_evidence_equal_enumeration(forest: PottsForest, seed: int) -> None:
    generator = np.random.default_rng(seed)
    sequences = generator.integers(STATES, size=(6, forest.length)).astype(np.uint8)
    missing = generator.random((6, forest.length)) < 0.5
    joint = np.exp(enumerate_log_weights(forest) - forest.log_partition)
    evidence, probabilities = forest.conditionals(sequences, missing)
    for row in range(6):
        visible = joint[
            tuple(
                slice(None) if hidden else slice(residue, residue + 1)
                for residue, hidden in zip(sequences[row], missing[row], strict=True)
            )
        ]
        assert evidence[row] == pytest.approx(np.log(visible.sum()), abs=1e-9)
        for site in range(forest.length):
            if missing[row, site]:
                others = tuple(axis for axis in range(forest.length) if axis != site)
                expected = visible.sum(axis=others) / visible.sum()
            else:
                expected = np.eye(STATES)[sequences[row, site]]
            np.testing.assert_allclose(probabilities[row, site], expected, atol=1e-10)


def test_a_chain_and_a_star_of_four_sites_equal_enumeration() -> None:
    generator = np.random.default_rng(4)
    for edges in ([(0, 2), (2, 3), (1, 3)], [(0, 1), (1, 2), (1, 3)], [(0, 3)]):
        forest = PottsForest(
            fields=generator.standard_normal((4, STATES)),
            edges=np.array(edges),
            couplings=3 * generator.standard_normal((len(edges), STATES, STATES)),
        )
        log_weights = enumerate_log_weights(forest)
        joint = np.exp(log_weights - forest.log_partition)
        assert joint.sum() == pytest.approx(1, abs=1e-10)
        sequence = np.array([[3, 19, 0, 7]], dtype=np.uint8)
        assert log_probability(forest, sequence)[0] == pytest.approx(
            np.log(joint[3, 19, 0, 7]), abs=1e-10
        )
        evidence, probabilities = forest.conditionals(
            sequence, np.array([[True, False, True, False]])
        )
        expected = joint[:, 19, :, 7]
        assert evidence[0] == pytest.approx(np.log(expected.sum()), abs=1e-10)
        expected = expected / expected.sum()
        np.testing.assert_allclose(probabilities[0, 0], expected.sum(axis=1), atol=1e-12)
        np.testing.assert_allclose(probabilities[0, 2], expected.sum(axis=0), atol=1e-12)


@given(seed=st.integers(0, 10_000), length=st.integers(4, 30))
@settings(deadline=None, max_examples=40)
def test_everything_observed_has_the_log_probability_as_evidence(seed: int, length: int) -> None:
    forest = random_forest(seed, length)
    sequences = forest.sample(5, np.random.default_rng(seed))
    evidence, _ = forest.conditionals(sequences, np.zeros((5, length), dtype=np.bool_))
    np.testing.assert_allclose(evidence, log_probability(forest, sequences), rtol=1e-10, atol=1e-9)


@given(seed=st.integers(0, 10_000), length=st.integers(4, 30))
@settings(deadline=None, max_examples=40)
def test_the_chain_rule_holds_for_any_length(seed: int, length: int) -> None:
    # revealing one site at a time: the conditionals multiply to the probability of the whole
    forest = random_forest(seed, length)
    sequence = forest.sample(1, np.random.default_rng(seed))
    rows = np.repeat(sequence, length, axis=0)
    missing = np.arange(length)[None, :] >= np.arange(length)[:, None]
    _, probabilities = forest.conditionals(rows, missing)
    steps = probabilities[np.arange(length), np.arange(length), sequence[0]]
    assert np.log(steps).sum() == pytest.approx(log_probability(forest, sequence)[0], abs=1e-8)


def test_everything_missing_gives_the_marginals() -> None:
    forest = random_forest(1, 12)
    evidence, probabilities = forest.conditionals(
        np.full((2, 12), 255, dtype=np.uint8), np.ones((2, 12), bool)
    )
    np.testing.assert_allclose(evidence, 0, atol=1e-10)
    np.testing.assert_allclose(probabilities[1], forest.marginals, atol=1e-12)


def test_two_sites_by_hand() -> None:
    # 20 matching pairs of weight e^4 and 380 others of weight 1
    forest = PottsForest(
        fields=np.zeros((2, STATES)),
        edges=np.array([[0, 1]]),
        couplings=4.0 * np.eye(STATES)[None],
    )
    assert forest.log_partition == pytest.approx(np.log(20 * np.exp(4) + 380))
    np.testing.assert_allclose(forest.marginals, 0.05)
    evidence, probabilities = forest.conditionals(
        np.array([[5, 0]], dtype=np.uint8), np.array([[False, True]])
    )
    assert evidence[0] == pytest.approx(np.log(0.05))
    assert probabilities[0, 1, 5] == pytest.approx(np.exp(4) / (np.exp(4) + 19))


def test_samples_agree_with_the_marginals() -> None:
    forest = random_forest(7, 10)
    sequences = forest.sample(40_000, np.random.default_rng(0))
    assert sequences.dtype == np.uint8
    one_hot = sequences[:, :, None] == np.arange(STATES)
    # five standard errors of a frequency near one half: 5 * sqrt(0.25 / 40000) = 0.0125
    np.testing.assert_allclose(one_hot.mean(axis=0), forest.marginals, atol=0.0125)
    for (first, second), pair in zip(forest.edges, pair_marginals(forest), strict=True):
        counts = np.zeros((STATES, STATES))
        np.add.at(counts, (sequences[:, first], sequences[:, second]), 1)
        np.testing.assert_allclose(counts / 40_000, pair, atol=0.0125)


def test_the_same_generator_gives_the_same_samples() -> None:
    forest = random_forest(3, 8)
    first = forest.sample(50, np.random.default_rng(9))
    np.testing.assert_array_equal(first, forest.sample(50, np.random.default_rng(9)))
    assert (first != forest.sample(50, np.random.default_rng(10))).any()


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([(0, 1), (1, 2), (0, 2)], "closes a cycle"),
        ([(0, 1), (0, 1)], "closes a cycle"),
        ([(2, 0)], "expected 0 <= first < second < length 3"),
        ([(0, 3)], "expected 0 <= first < second < length 3"),
    ],
)
def test_edges_that_are_refused(edges: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PottsForest(
            fields=np.zeros((3, STATES)),
            edges=np.array(edges),
            couplings=np.zeros((len(edges), STATES, STATES)),
        )


def test_parameters_that_are_refused() -> None:
    fields = np.zeros((3, STATES))
    no_edges = np.zeros((0, 2), dtype=np.int64)
    no_couplings = np.zeros((0, STATES, STATES))
    with pytest.raises(ValueError, match="fields: shape"):
        PottsForest(fields=np.zeros((3, 19)), edges=no_edges, couplings=no_couplings)
    with pytest.raises(ValueError, match="couplings: shape"):
        PottsForest(fields=fields, edges=np.array([[0, 1]]), couplings=no_couplings)
    with pytest.raises(ValueError, match="edges: shape"):
        PottsForest(fields=fields, edges=np.array([0, 1]), couplings=no_couplings)
    with pytest.raises(ValueError, match="finite"):
        PottsForest(fields=fields * np.nan, edges=no_edges, couplings=no_couplings)
    forest = PottsForest(fields=fields, edges=no_edges, couplings=no_couplings)
    with pytest.raises(ValueError, match="observed residue"):
        forest.conditionals(np.full((1, 3), 20, dtype=np.uint8), np.zeros((1, 3), dtype=np.bool_))
    with pytest.raises(ValueError, match="expected"):
        forest.conditionals(np.zeros((1, 4), dtype=np.uint8), np.zeros((1, 4), dtype=np.bool_))
