"""Keyed hashes: they place a record in a corpus independently of all other records."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

# Never change them: other keys would move the held-out sequences of every corpus, and shuffle it.
SEQUENCE_KEY: Final = b"esm1b validation split"
SAMPLE_KEY: Final = b"esm1b sample"
_ID_KEY: Final = b"esm1b corpus order"

_WORD: Final = 8
_LONGEST_ID: Final = 128
# `[9]` mask of the lowest 0 to 8 bytes of a word
_MASKS: Final = np.array([2 ** (8 * size) - 1 for size in range(_WORD + 1)], np.uint64)


def sequence_hashes(sequences: Iterable[bytes], key: bytes) -> NDArray[np.uint64]:
    """Return the 64-bit keyed hash of each cleaned sequence, uniform over the whole range.

    With `SEQUENCE_KEY` it decides the side of the split, with `SAMPLE_KEY` who is in a sample.
    """
    start = _seed(key)
    return np.array([xxh3_64_intdigest(sequence, start) for sequence in sequences], np.uint64)


def id_hashes(
    text: bytes, starts: NDArray[np.int64], lengths: NDArray[np.int32]
) -> NDArray[np.uint64]:
    """Return the 64-bit keyed hash of each id, which orders the records of a corpus.

    The id's length and then its bytes, eight at a time, are mixed into the key one after another,
    for all ids at once, which is faster than a call for each.

    Args:
        text: all ids.
        starts: `[ids]` place of each id in `text`.
        lengths: `[ids]` bytes of each id.
    """
    start = _seed(_ID_KEY)
    hashes = mixed(lengths.astype(np.uint64) ^ np.uint64(start))
    for place in range(0, min(int(lengths.max(initial=0)), _LONGEST_ID), _WORD):
        rest = lengths - place
        word = first_words(text, starts + place, rest)
        hashes = np.where(rest > 0, mixed(hashes ^ word), hashes)
    for number in np.flatnonzero(lengths > _LONGEST_ID).tolist():
        name = text[starts[number] : starts[number] + lengths[number]]
        hashes[number] = xxh3_64_intdigest(name, start)
    return hashes


def first_words(
    text: bytes | memoryview,
    starts: NDArray[np.integer],
    lengths: NDArray[np.integer] | int,
) -> NDArray[np.uint64]:
    """Return the first eight bytes of pieces of `text` as little-endian numbers.

    A piece of fewer bytes is followed by zeros, and one of no or negative length is 0.

    Args:
        text: one text that holds all pieces.
        starts: `[pieces]`, not negative.
        lengths: `[pieces]`, in bytes.
    """
    if len(text) < _WORD:
        text = bytes(text).ljust(_WORD, b"\0")
    # one number for every byte of the text, unaligned and overlapping
    words = np.ndarray(len(text) - _WORD + 1, "<u8", text, strides=(1,))
    places = np.minimum(starts, len(words) - 1)
    # near the end of the text, the word begins before the piece
    found = words[places] >> (8 * (starts - places)).astype(np.uint64)
    return found & _MASKS.take(lengths, mode="clip")  # type: ignore[no-any-return]


def joined(ids: Sequence[bytes]) -> tuple[bytes, NDArray[np.int64], NDArray[np.int32]]:
    """Return one text with all `ids`, and their places and lengths; see `id_hashes`."""
    lengths = np.array([len(name) for name in ids], dtype=np.int32)
    return b"".join(ids), np.cumsum(lengths, dtype=np.int64) - lengths, lengths


def below(hashes: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_]:
    """Return a mask of the hashes in the lowest `fraction` (above 0, below 1) of their range."""
    return np.less(hashes, np.uint64(int(fraction * 2**64)))


def _seed(key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=_WORD).digest(), "big")


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return values in which every bit depends on every bit of those given, one to one.

    The finaliser of SplitMix64 (Steele, Lea and Flood, 2014, doi:10.1145/2714064.2660195), with
    the constants of Stafford's "Mix13".
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
