import gzip
import os
import re
import zlib
from io import StringIO
from pathlib import Path
from typing import TextIO

import pytest
from Bio.SeqIO.FastaIO import SimpleFastaParser
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from esm1b.errors import UserError
from esm1b.sequences.fasta import read_fasta_blocks
from esm1b.sequences.formats import parse_block, raw_blocks
from esm1b.sequences.input_file import CHUNK_BYTES, InputFile
from esm1b.sequences.record import Header, parse_header

TITIN = "UniRef50_K7G060 Titin n=25 Tax=Amniota TaxID=32524 RepID=K7G060_PELSI"


def written(folder: Path, content: bytes, name: str = "input.fasta") -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


def records_of(name: str, block_bytes: int = CHUNK_BYTES) -> list[tuple[Header, str]]:
    return [
        (header, sequence.decode())
        for block in read_fasta_blocks(InputFile(name), block_bytes)
        for header, sequence in zip(block.headers, block.sequences, strict=True)
    ]


def parsed(*records: tuple[str, str]) -> list[tuple[Header, str]]:
    """Return header lines and sequences with the headers' fields."""
    return [(parse_header(header.strip()), sequence) for header, sequence in records]


def by_biopython(file: TextIO) -> list[tuple[Header, str]]:
    return parsed(*SimpleFastaParser(file))


def test_records_of_a_plain_file(tmp_path: Path) -> None:
    name = written(tmp_path, b"\n>a one > two \nMKV\nLA\n\n>b\nmk *\n>empty\n>c\nW")
    assert records_of(name) == parsed(
        ("a one > two", "MKVLA"), ("b", "mk*"), ("empty", ""), ("c", "W")
    )


def test_compression_is_told_by_content_and_members_follow_one_another(tmp_path: Path) -> None:
    members = (
        gzip.compress(b">a\nMK", mtime=0)
        + gzip.compress(b"", mtime=0)
        + gzip.compress(b"V\n>b\nLA\n", mtime=0)
    )
    name = written(tmp_path, members + b"\0" * 512, "not-named-gz.txt")
    assert records_of(name) == parsed(("a", "MKV"), ("b", "LA"))


def test_byte_order_mark_and_latin_headers_are_read(tmp_path: Path) -> None:
    name = written(tmp_path, b"\xef\xbb\xbf>a caf\xc3\xa9\nMK\n>b caf\xe9\nV\n")
    assert records_of(name) == parsed(("a café", "MK"), ("b café", "V"))


def test_blocks_of_any_size_give_the_same_records(tmp_path: Path) -> None:
    records = [(f"id{number}", "MKVLA" * number) for number in range(40)]
    text = "".join(f">{header}\r\n{sequence}\r\n" for header, sequence in records).encode()
    path = written(tmp_path, gzip.compress(text, mtime=0))
    for block_bytes in (1, 7, 1000, 1 << 20):
        assert records_of(path, block_bytes) == parsed(*records)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "input.fasta: empty; expected a FASTA header line beginning with '>'"),
        (b" \n\r\n", "input.fasta: empty; expected a FASTA header line beginning with '>'"),
        (
            gzip.compress(b"", mtime=0),
            "input.fasta: empty; expected a FASTA header line beginning with '>'",
        ),
        (
            b"<!DOCTYPE html>\n<html>",
            "input.fasta: a web page (HTML); expected a FASTA header line beginning with '>'",
        ),
        (
            b"\n\nMKVLA\n>a\nMK",
            "input.fasta: line 3: a sequence before any header: 'MKVLA'; "
            "expected a FASTA header line beginning with '>'",
        ),
        (
            b"@read/1\nACGT\n+\nIIII\n",
            "input.fasta: line 1: '@read/1'; expected a FASTA header line beginning with '>'",
        ),
        (
            ">a\nMK\n".encode("utf-16"),
            "input.fasta: UTF-16 text near record 1; expected FASTA as plain ASCII text",
        ),
        (
            b">a\nMK\n>b\nM\0K\n",
            "input.fasta: a NUL byte near record 2; expected FASTA as plain ASCII text",
        ),
        (
            b">a\nMK\n>\nMK\n",
            "input.fasta: record 2: a header line without an id; expected '>' followed by an id",
        ),
        (
            gzip.compress(b">a\nMK\n>b\nMK\n>c\nMK\n", mtime=0)[:-9],
            "input.fasta: the gzip data ends early after 2 complete records; "
            "expected a complete .gz file",
        ),
        (
            gzip.compress(b">a\nMK\n>b\nMK\n", mtime=0) + b"garbage",
            "input.fasta: other data follows the gzip data after 1 complete records; "
            "expected a complete .gz file",
        ),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    name = written(tmp_path, content)
    with pytest.raises(UserError) as caught:
        records_of(name)
    assert str(caught.value) == f"{tmp_path}/{message}"


def test_damaged_checksum_is_refused(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(b">a\nMK\n", mtime=0))
    content[-5] ^= 1
    with pytest.raises(UserError, match=r"the gzip data is corrupt after 0 complete records"):
        records_of(written(tmp_path, bytes(content)))


def test_record_too_long_for_a_protein_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esm1b.sequences.fasta.LONGEST_RECORD", 100)
    file = InputFile(written(tmp_path, b">a\nMK\n>chromosome\n" + b"ACGT" * 100))
    with pytest.raises(UserError, match="record 2: longer than 100 characters"):
        list(read_fasta_blocks(file, 10))


def test_missing_file_and_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.fasta: No such file or directory"):
        InputFile(str(tmp_path / "none.fasta"))
    with pytest.raises(UserError, match="is a directory; expected a file"):
        InputFile(str(tmp_path))


def test_expanding_gzip_is_read_piece_by_piece(tmp_path: Path) -> None:
    """Sixteen megabytes that compress to sixteen kilobytes never stand in memory at once."""
    compressor = zlib.compressobj(9, wbits=31)
    content = b"".join(compressor.compress(b"A" * (1 << 20)) for _ in range(16))
    name = written(tmp_path, content + compressor.flush())
    sizes = [len(chunk) for chunk in InputFile(name).chunks()]
    assert sum(sizes) == 16 << 20
    assert max(sizes) < 2 << 20


def test_identity_of_an_input(tmp_path: Path) -> None:
    file = InputFile(written(tmp_path, b">a\nMK\n"))
    list(read_fasta_blocks(file))
    assert file.identity() == {
        "file": "input.fasta",
        "bytes": 6,
        "sha256": "85bc3fdf3fd33379de41de33d6cb53b4f91d5aa1fee9ea9be99848561ed7b5d9",
    }


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (TITIN, ("UniRef50_K7G060", "Titin", 25, "Amniota", 32524, "K7G060_PELSI")),
        (
            "UniRef50_A a=b; n=2 things n=1 Tax=Escherichia coli (strain K=12) TaxID=5 RepID=X",
            ("UniRef50_A", "a=b; n=2 things", 1, "Escherichia coli (strain K=12)", 5, "X"),
        ),
        ("UniRef50_B Name n=3", ("UniRef50_B", "Name", 3, None, None, None)),
        ("UniRef50_C n=3 Tax=root TaxID=1", ("UniRef50_C", None, 3, "root", 1, None)),
        (
            "UniRef50_D Name n=1 Tax=unknown TaxID=N/A RepID=Y",
            ("UniRef50_D", "Name", 1, "unknown", None, "Y"),
        ),
        (
            "sp|P1|P1_HUMAN Protein OS=Homo sapiens PE=4 SV=1",
            ("sp|P1|P1_HUMAN", "Protein OS=Homo sapiens PE=4 SV=1", None, None, None, None),
        ),
        ("plain", ("plain", None, None, None, None, None)),
        ("id\tname of it ", ("id", "name of it", None, None, None, None)),
        ("id length n=many", ("id", "length n=many", None, None, None, None)),
        ("id n=12345678901", ("id", "n=12345678901", None, None, None, None)),
    ],
)
def test_header_fields(line: str, expected: tuple[object, ...]) -> None:
    assert parse_header(line) == Header(*expected)  # type: ignore[arg-type]  # a table of literals


TAG = re.compile(r" (Tax|TaxID|RepID)=")
WORDS = st.text("abn=T axIDRep(1)-\u00e9", min_size=1, max_size=20).map(str.strip).filter(bool)


@given(
    identifier=st.from_regex(r"UniRef50_[A-Z0-9]{1,9}", fullmatch=True),
    name=st.none() | WORDS,
    members=st.none() | st.integers(0, 999_999_999),
    taxon=st.none() | WORDS.filter(lambda text: not TAG.search(" " + text)),
    taxon_id=st.none() | st.integers(0, 10**18 - 1),
    representative=st.none() | st.from_regex(r"[A-Z0-9]{1,9}(_[A-Z]{1,5})?", fullmatch=True),
)
@settings(max_examples=300, deadline=None)
def test_any_header_is_taken_apart_into_what_it_was_made_of(
    identifier: str,
    name: str | None,
    members: int | None,
    taxon: str | None,
    taxon_id: int | None,
    representative: str | None,
) -> None:
    tags = {"n": members, "Tax": taxon, "TaxID": taxon_id, "RepID": representative}
    given_tags = [f"{key}={value}" for key, value in tags.items() if value is not None]
    # a tag that is missing may be found in the name
    assume(len(given_tags) == 4 or "=" not in f"{name}{taxon}")
    line = " ".join([identifier, *([name] if name else []), *given_tags])
    expected = Header(identifier, name, members, taxon, taxon_id, representative)
    assert parse_header(line) == expected


HEADER_TEXT = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="\x7f\x85\xa0\xad"),
    min_size=1,
    max_size=30,
)
RESIDUE_TEXT = st.text("ACDEFGHIKLMNPQRSTVWYXacx*-", max_size=200)


@given(
    records=st.lists(st.tuples(HEADER_TEXT, RESIDUE_TEXT), min_size=1, max_size=8),
    width=st.integers(1, 90),
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    compressed=st.booleans(),
    block_bytes=st.integers(1, 300),
)
@settings(max_examples=60, deadline=None)
def test_any_wrapping_gives_the_same_records(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[tuple[str, str]],
    width: int,
    ending: str,
    compressed: bool,
    block_bytes: int,
) -> None:
    text = "".join(
        f">{header}{ending}"
        + "".join(sequence[k : k + width] + ending for k in range(0, len(sequence), width))
        for header, sequence in records
    )
    content = text.encode()
    path = written(
        tmp_path_factory.mktemp("fasta"), gzip.compress(content, mtime=0) if compressed else content
    )
    found = records_of(path, block_bytes)
    assert found == parsed(*records)
    assert found == by_biopython(StringIO(text, newline=None))
    blocks = [parse_block(block) for block in raw_blocks(InputFile(path), block_bytes)]
    assert [header for block in blocks for header in block.headers] == [
        header for header, _ in found
    ]
    assert [sequence.decode() for block in blocks for sequence in block.sequences] == [
        sequence for _, sequence in found
    ]


@pytest.mark.realdata
@pytest.mark.skipif(
    "ESM1B_REAL_DATA" not in os.environ, reason="ESM1B_REAL_DATA names no directory of proteins"
)
def test_real_files_equal_biopython() -> None:
    paths = sorted((Path(os.environ["ESM1B_REAL_DATA"]) / "sequences").glob("*.fasta.gz"))
    assert paths
    for path in paths:
        with gzip.open(path, "rt") as file:
            expected = by_biopython(file)
        assert records_of(str(path)) == expected
