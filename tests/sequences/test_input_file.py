import gzip
import io
import struct
import threading
import zlib
from collections.abc import Generator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esm1b.sequences.input_file import DamagedInputError, decompressed_chunks, prefetch

TEXT = b">a name\nMKVLAMKVLAWWWW\n>b\nMKKKKKKKKKKKKKKKKKK\n" * 5
MEMBER = gzip.compress(TEXT, mtime=0)


def content(data: bytes, size: int = 64, most: int = 1 << 20) -> bytes:
    """Return what is read of `data`, at most `most` bytes at a time."""
    file = io.BytesIO(data)
    return b"".join(decompressed_chunks(lambda limit: file.read(min(limit, most)), size))


def named(text: bytes) -> bytes:
    """A member with every optional field of the header: name, comment, extra data, checksum."""
    compressed = gzip.compress(text, mtime=0)
    extra = struct.pack("<H", 4) + b"EX\0\0"
    header = compressed[:3] + b"\x1e" + compressed[4:10] + extra + b"a.fasta\0note\0"
    return header + struct.pack("<H", zlib.crc32(header) & 0xFFFF) + compressed[10:]


@given(
    texts=st.lists(st.binary(max_size=300), max_size=5),
    levels=st.integers(0, 9),
    padding=st.integers(0, 3),
    size=st.integers(1, 400),
    most=st.integers(2, 50),
)
@settings(max_examples=100, deadline=None)
def test_members_of_any_kind_read_in_any_pieces(
    texts: list[bytes], levels: int, padding: int, size: int, most: int
) -> None:
    members = [gzip.compress(text, levels, mtime=0) for text in texts]
    data = b"".join(member + b"\0" * padding for member in [*members, named(b"the end")])
    assert content(data, size, most) == b"".join(texts) + b"the end"


def test_plain_bytes_pass_unchanged() -> None:
    for data in (b"", b"\x1f", b"\x1f\x8c", b">a\nMK\n" * 100):
        assert content(data) == data
        assert content(data, 1, 2) == data


def test_pieces_have_the_size_that_was_asked_for() -> None:
    file = io.BytesIO(gzip.compress(b"A" * 1_000_000))
    sizes = [len(chunk) for chunk in decompressed_chunks(file.read, 4096)]
    assert sum(sizes) == 1_000_000
    assert all(4096 <= size < 8192 for size in sizes[:-1])


@pytest.mark.parametrize("size", [1, 1000])
def test_data_cut_at_any_place_is_refused(size: int) -> None:
    """But between members, where nothing shows it."""
    data = MEMBER * 2
    for end in range(2, len(data)):
        if end == len(MEMBER):
            assert content(data[:end], size) == TEXT
            continue
        with pytest.raises(DamagedInputError, match="the gzip data ends early"):
            content(data[:end], size)


def test_any_wrong_bit_is_refused_or_without_effect() -> None:
    """Without effect are time, operating system and flags about speed in the header."""
    harmless = {4, 5, 6, 7, 8, 9}
    for position in range(2, len(MEMBER)):
        for bit in range(8):
            data = bytearray(MEMBER)
            data[position] ^= 1 << bit
            if position in harmless:
                assert content(bytes(data)) == TEXT
                continue
            try:
                found = content(bytes(data))
            except DamagedInputError:
                continue
            assert found == TEXT


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (b"garbage", "other data follows the gzip data"),
        (b"\0\0garbage", "other data follows the gzip data"),
        (b">a\nMK\n", "other data follows the gzip data"),
        (b"\x1f", "the gzip data ends early"),
        (b"\x1f\x8b\x07" + b"\0" * 30, "the gzip data is corrupt"),
    ],
)
def test_what_follows_the_data(tail: bytes, message: str) -> None:
    with pytest.raises(DamagedInputError, match=message):
        content(MEMBER + tail)


def test_an_abandoned_file_joins_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    # The garbage collector may close it while a thread starts, which holds a lock that join needs.
    chunks = prefetch(iter([b"first", b"second", b"third"]))
    assert next(chunks) == b"first"
    monkeypatch.setattr(threading.Thread, "join", lambda *_: pytest.fail("joined"))
    assert isinstance(chunks, Generator)
    chunks.close()
