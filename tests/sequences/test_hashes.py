import hashlib

import numpy as np
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from esm1b.sequences.hashes import (
    SAMPLE_KEY,
    SEQUENCE_KEY,
    below,
    id_hashes,
    joined,
    sequence_hashes,
)


def test_hashes_are_those_of_the_documented_keys() -> None:
    """Other values would move the held-out sequences of every corpus made so far."""
    for key, text, seed, value in (
        (SEQUENCE_KEY, b"esm1b validation split", 872321123684913509, 12481063719672271515),
        (SAMPLE_KEY, b"esm1b sample", 8307559810754663267, 10261225764454670757),
    ):
        assert key == text
        assert int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") == seed
        assert xxhash.xxh3_64_intdigest(b"MKV", seed) == value
        assert sequence_hashes([b"MKV"], key).tolist() == [value]


def test_sequences_that_differ_little_are_spread_evenly() -> None:
    sequences = [
        b"MKV%cAG%b" % (residue, b"W" * count) for residue in b"ACDEFGHIKL" for count in range(900)
    ]
    shares = np.histogram(
        sequence_hashes(sequences, SEQUENCE_KEY).astype(float), bins=9, range=(0, 2.0**64)
    )[0]
    # a thousand each, binomial with a standard deviation of 30: five of them
    assert np.abs(shares - 1000).max() < 150


def mixed(value: int) -> int:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ value >> shift) * factor % 2**64
    return value ^ value >> 31


def id_hash(name: bytes) -> int:
    """The hash of one id, in plain arithmetic."""
    key = b"esm1b corpus order"
    key_word = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
    if len(name) > 128:
        return xxhash.xxh3_64_intdigest(name, key_word)
    value = mixed(key_word ^ len(name))
    for place in range(0, len(name), 8):
        value = mixed(value ^ int.from_bytes(name[place : place + 8], "little"))
    return value


def test_the_order_of_ids_is_fixed() -> None:
    assert id_hashes(*joined([b"UniRef50_K7G060"])).tolist() == [16823970948755153313]
    assert id_hash(b"UniRef50_K7G060") == 16823970948755153313


@given(st.lists(st.binary(max_size=40) | st.binary(min_size=120, max_size=140), max_size=8))
def test_ids_are_hashed_at_once_as_one_by_one(names: list[bytes]) -> None:
    assert id_hashes(*joined(names)).tolist() == [id_hash(name) for name in names]


def test_ids_that_follow_one_another_are_spread_evenly_and_never_meet() -> None:
    names = [b"UniRef50_A0A%09d" % number for number in range(200_000)]
    hashes = id_hashes(*joined(names))
    assert len(np.unique(hashes)) == len(names)
    for shift in (56, 28, 0):
        counts = np.bincount((hashes >> np.uint64(shift) & np.uint64(255)).astype(int))
        # chi-squared of 255 degrees of freedom: 255 +- 22.6, five standard deviations
        assert abs(((counts - 781.25) ** 2 / 781.25).sum() - 255) < 113
    # one bit of the id changes half of the bits of the hash
    changed = id_hashes(*joined([name[:-1] + bytes([name[-1] ^ 1]) for name in names[:2000]]))
    bits = np.unpackbits((hashes[:2000] ^ changed).view(np.uint8)).reshape(2000, 64)
    assert abs(bits.mean(axis=0) - 0.5).max() < 0.06


def test_below_is_a_share() -> None:
    hashes = np.array([0, 2**62 - 1, 2**62, 2**63, 2**64 - 1], np.uint64)
    assert below(hashes, 0.25).tolist() == [True, True, False, False, False]
