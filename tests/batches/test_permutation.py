from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from esm1b.batches.permutation import Permutation


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
