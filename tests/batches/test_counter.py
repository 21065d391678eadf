import numpy as np
from scipy import stats

from esm1b.batches.counter import Purpose, keys, uniform, words


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
