"""Random numbers and permutations as functions of a key and an index, without a state to save."""

from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from esm1b.sequences.hashes import mixed

# The increment of SplitMix64, whose finaliser is `mixed`.
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
# Luby and Rackoff 1988, "How to construct pseudorandom permutations from pseudorandom functions":
# four rounds are enough for large halves. Small halves need more: with 12, even the 120 orders of
# five indices come up equally often, as far as 12,000 draws tell.
_ROUNDS: Final = 6
_ROUNDS_OF_SMALL: Final = 12
_SMALL_BITS: Final = 16
# Indices computed at once: their arrays and the tables of 60 million sequences fit the cache.
_CHUNK: Final = 8192


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


class Permutation:
    """A permutation of 0 to `size` - 1 that (seed, epoch) decides, computed at any index.

    A Feistel network over the bits of an index: its upper and its lower half take turns to be
    changed by a random function of the other. The functions are tables, of a few thousand entries
    for 60 million indices. It permutes the next power of two; an index that lands at `size` or
    beyond is sent through again until it lands below ("cycle walking", Black and Rogaway 2002),
    which keeps it a permutation and takes two passes on average at most.
    """

    def __init__(self, size: int, *, seed: int, epoch: int) -> None:
        self._size = size
        bits = (size - 1).bit_length()
        self._lower_bits = bits // 2
        # The upper half is changed in even rounds, by a function of the lower one.
        entries, values = 1 << self._lower_bits, 1 << (bits - self._lower_bits)
        rounds = _ROUNDS_OF_SMALL if bits <= _SMALL_BITS else _ROUNDS
        round_keys = keys(Purpose.ORDER, seed, epoch, np.arange(rounds))
        self._tables: list[NDArray[np.int64]] = []
        for key in round_keys:
            random_words = words(key, np.arange(entries))
            self._tables.append((random_words % np.uint64(values)).astype(np.int64))
            entries, values = values, entries

    def __call__(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the image of each of `indices` `[n]`, int64 `[n]`."""
        result = np.empty(len(indices), dtype=np.int64)
        for start in range(0, len(indices), _CHUNK):
            part = result[start : start + _CHUNK]
            part[:] = self._pass(indices[start : start + _CHUNK])
            beyond = np.flatnonzero(part >= self._size)
            while len(beyond):
                again = self._pass(part[beyond])
                part[beyond] = again
                beyond = beyond[again >= self._size]
        return result

    def _pass(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Send indices through the network once."""
        upper = indices >> self._lower_bits
        lower = indices & ((1 << self._lower_bits) - 1)
        for number, table in enumerate(self._tables):
            if number % 2 == 0:
                upper ^= table.take(lower)
            else:
                lower ^= table.take(upper)
        upper <<= self._lower_bits
        upper |= lower
        return upper
