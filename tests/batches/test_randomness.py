from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from esm1b.batches.randomness import Permutation, Purpose, keys, uniform, words


def test_words_are_splitmix64() -> None:
    # The first outputs of SplitMix64 with state 1234567, a vector that many libraries test.
    key = np.full(5, 1234567, dtype=np.uint64)
    assert words(key, np.arange(5)).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_pinned_keys() -> None:
    """The order, crops and masks of every run follow from these: they never change."""
    assert keys(Purpose.ORDER, 1, 0, np.arange(3)).tolist() == [
        12793040940332582595,
        17925934194126948328,
        7868805697131187933,
    ]
    last = keys(Purpose.MASKING, 2**63 - 1, np.array([7]), np.array([10**9]))
    assert last.tolist() == [16258084920992356097]
    assert [purpose.value for purpose in Purpose] == [0, 1, 2]


def test_a_key_for_each_pair_of_epoch_and_sequence() -> None:
    epochs, sequences = np.array([0, 1, 1]), np.array([5, 5, 6])
    together = keys(Purpose.CROP, 3, epochs, sequences)
    for index in range(3):
        alone = keys(Purpose.CROP, 3, int(epochs[index]), sequences[index : index + 1])
        assert alone.tolist() == [together[index]]
    assert len(set(together.tolist())) == 3
    assert keys(Purpose.CROP, 3, 0, np.empty(0, dtype=np.int64)).shape == (0,)


def test_keys_of_different_purposes_seeds_and_epochs_differ() -> None:
    sequences = np.arange(2000)
    streams = [
        keys(purpose, seed, epoch, sequences)
        for purpose in Purpose
        for seed in (0, 1, 2**63 - 1)
        for epoch in (0, 1, 1000)
    ]
    assert len(np.unique(np.concatenate(streams))) == 3 * 3 * 3 * 2000


def test_uniform_numbers() -> None:
    ends = np.array([0, 2**64 - 1], dtype=np.uint64)
    assert uniform(ends).tolist() == [0.0, 1 - 2.0**-53]
    draws = uniform(keys(Purpose.MASKING, 0, 0, np.arange(20_000)))
    assert stats.kstest(draws, "uniform").pvalue > 0.001
    in_sequence = uniform(words(np.full(20_000, 5, dtype=np.uint64), np.arange(20_000)))
    assert stats.kstest(in_sequence, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.03


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**63 - 1), st.integers(0, 10**6))
def test_every_index_once(size: int, seed: int, epoch: int) -> None:
    whole = Permutation(size, seed=seed, epoch=epoch)(np.arange(size))
    assert sorted(whole.tolist()) == list(range(size))


@pytest.mark.parametrize("size", [2**16, 2**16 + 1, 2**17 - 1, 100_003])
def test_every_index_once_of_many(size: int) -> None:
    whole = Permutation(size, seed=3, epoch=5)(np.arange(size))
    assert (np.bincount(whole, minlength=size) == 1).all()
    assert len(whole) == size


def test_one_index_is_computed_like_all() -> None:
    permutation = Permutation(70_000, seed=1, epoch=2)
    whole = permutation(np.arange(70_000))
    some = np.random.default_rng(0).integers(0, 70_000, size=500)
    assert permutation(some).tolist() == whole[some].tolist()
    assert permutation(np.empty(0, dtype=np.int64)).tolist() == []
    # 2^31 and more: an array of all of them is out of reach, and not needed
    far = Permutation(3_000_000_000, seed=1, epoch=0)(np.arange(2_999_999_000, 3_000_000_000))
    assert len(set(far.tolist())) == 1000
    assert 0 <= far.min() < far.max() < 3_000_000_000


def test_another_permutation_for_each_seed_and_epoch() -> None:
    found = [
        Permutation(100_000, seed=seed, epoch=epoch)(np.arange(100_000))
        for seed, epoch in [(1, 0), (1, 1), (2, 0), (2**63 - 1, 0)]
    ]
    for index, one in enumerate(found):
        for other in found[:index]:
            # Of two independent permutations one index agrees on average.
            assert (one == other).sum() < 10


@pytest.mark.parametrize("size", [3, 4, 5])
def test_small_sizes_have_all_orders_alike(size: int) -> None:
    orders = Counter(
        tuple(Permutation(size, seed=seed, epoch=0)(np.arange(size)).tolist())
        for seed in range(3000)
    )
    assert len(orders) == {3: 6, 4: 24, 5: 120}[size]
    assert stats.chisquare(list(orders.values())).pvalue > 1e-3


@pytest.mark.parametrize("size", [20_000, 100_000, 131_073])
def test_it_looks_random(size: int) -> None:
    permutation = Permutation(size, seed=1, epoch=0)
    whole = permutation(np.arange(size))
    # Each tenth of the ranks holds as much of each tenth of the indices.
    table = np.histogram2d(np.arange(size), whole, bins=10)[0]
    assert stats.chi2_contingency(table).pvalue > 1e-3
    assert abs(np.corrcoef(np.arange(size), whole)[0, 1]) < 5 / np.sqrt(size)
    # Differences of neighbours, modulo the size, are uniform, and no rank's neighbours are close.
    for step in (1, 2, 128, 1024):
        differences = (whole[step:] - whole[:-step]) % size
        counts = np.histogram(differences, bins=100, range=(0, size))[0]
        assert stats.chisquare(counts).pvalue > 1e-3
    # The lowest bit is that of the rank as often as not.
    assert abs(np.mean((whole ^ np.arange(size)) & 1) - 0.5) < 3 / np.sqrt(size)


def test_pinned_permutation() -> None:
    """The order of every run follows from these: they never change."""
    assert Permutation(10, seed=1, epoch=0)(np.arange(10)).tolist() == [
        7,
        6,
        0,
        3,
        4,
        9,
        1,
        5,
        2,
        8,
    ]
    assert Permutation(60_315_044, seed=1, epoch=3)(np.arange(4)).tolist() == [
        35540103,
        17874606,
        32270383,
        20956977,
    ]
