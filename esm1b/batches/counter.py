"""Random numbers as a function of a key and a counter, without a state to save or replay."""

from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from esm1b.sequences.hashes import mixed

# The increment of SplitMix64, whose finaliser is `mixed`.
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)


class Purpose(IntEnum):
    """The purpose of a random number; equal counters of two purposes give independent numbers."""

    ORDER = 0
    CROP = 1
    MASKING = 2


def keys(
    purpose: Purpose, seed: int, epoch: NDArray[np.int64] | int, sequence: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Return one uint64 key `[sequences]` for each (purpose, seed, epoch, sequence)."""
    key = np.full(1, seed, dtype=np.uint64)
    for part in (purpose, epoch, sequence):
        key = words(key, np.atleast_1d(np.asarray(part, dtype=np.int64)))
    return np.broadcast_to(key, np.shape(sequence))


def words(key: NDArray[np.uint64], counter: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the uint64 word at `counter` of the stream `key`; arrays of equal shape."""
    return mixed(key + _GOLDEN * (counter.astype(np.uint64) + np.uint64(1)))


def uniform(random_words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return float64 numbers in [0, 1) from the upper 53 bits of `random_words`."""
    return (random_words >> np.uint64(11)).astype(np.float64) * np.float64(2.0**-53)
