import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from esm1b.corpus.hashes import below, id_hashes, joined, sample_hashes, sequence_hashes


def test_hashes_are_those_of_the_documented_keys() -> None:
    """Other values would move the held-out sequences of every corpus made so far."""
    assert sequence_hashes([b"MKV"]).tolist() == [534495540493666200]
    digest = hashlib.blake2b(b"MKV", digest_size=8, key=b"esm1b validation split").digest()
    assert sequence_hashes([b"MKV"]).tolist() == [int.from_bytes(digest, "big")]
    digest = hashlib.blake2b(b"MKV", digest_size=8, key=b"esm1b sample").digest()
    assert sample_hashes([b"MKV"]).tolist() == [int.from_bytes(digest, "big")]


def mixed(value: int) -> int:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ value >> shift) * factor % 2**64
    return value ^ value >> 31


def id_hash(name: bytes) -> int:
    """The hash of one id, in plain arithmetic."""
    key = b"esm1b corpus order"
    if len(name) > 128:
        return int.from_bytes(hashlib.blake2b(name, digest_size=8, key=key).digest(), "big")
    key_word = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
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
