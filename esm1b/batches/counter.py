"""Random numbers as a function of a key and a counter, without a state to save or replay."""

from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

# SplitMix64: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"; the
# constants of its finaliser are Stafford's variant 13.
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST_MULTIPLIER: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND_MULTIPLIER: Final = np.uint64(0x94D049BB133111EB)


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
    x: NDArray[np.uint64] = key + _GOLDEN * (counter.astype(np.uint64) + np.uint64(1))
    x = (x ^ (x >> np.uint64(30))) * _FIRST_MULTIPLIER
    x = (x ^ (x >> np.uint64(27))) * _SECOND_MULTIPLIER
    return x ^ (x >> np.uint64(31))


def uniform(random_words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return float64 numbers in [0, 1) from the upper 53 bits of `random_words`."""
    return (random_words >> np.uint64(11)).astype(np.float64) * np.float64(2.0**-53)
