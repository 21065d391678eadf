"""Inputs as they should not be, each with its documented outcome: a message, or counts that add up.

Whatever the input: one line that says what is wrong and exit status 2, or every record kept or
dropped for a reason that is counted.
"""

import bz2
import gzip
import json
import logging
import lzma
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.uniref_files import (
    draw_clusters,
    release_archive,
    tar,
    uniref_fasta,
    uniref_xml,
)
from esm1b.cli import main
from esm1b.errors import UserError
from esm1b.sequences.formats import parse_block, raw_blocks
from esm1b.sequences.input_file import InputFile

# Records of a second input, so that there is something on either side of the split.
GOOD = b">good1\nMKTVRQG\n>good2\nKALTAISQP\n"
CLUSTERS = draw_clusters(20, seed=2)
FASTA = uniref_fasta(CLUSTERS)
XML = uniref_xml(CLUSTERS)
MEMBER = gzip.compress(FASTA, mtime=0)
NO_HEADER = "expected a FASTA header line beginning with '>'"
NO_KIND = "expected FASTA, UniRef XML or a UniProt release archive, plain or gzip-compressed"
NO_TEXT = "expected FASTA as plain ASCII text"
NO_GZIP = "expected a complete .gz file"
NO_UNIREF50 = "expected a whole archive with uniref50.tar, uniref50.xml.gz or uniref50.fasta.gz"
NO_XML = "expected well-formed UniRef XML"

# By reason, how many of how many records are dropped.
Counts = tuple[int, dict[str, int]]


def kept(records: int) -> Counts:
    return records, {}


def other_characters(records: int, dropped: int = 1) -> Counts:
    return records, {"other_characters": dropped}


def empty(records: int, dropped: int = 1) -> Counts:
    return records, {"empty_sequence": dropped}


def duplicates(records: int, dropped: int = 1) -> Counts:
    return records, {"duplicate_id": dropped}


def changed(old: bytes, new: bytes, text: bytes = XML) -> bytes:
    """Return `text` with the first `old` replaced, which must be there."""
    assert old in text
    return text.replace(old, new, 1)


def element(tag: bytes) -> bytes:
    """Return the first such element of `XML`."""
    start = XML.index(b"<" + tag)
    end = b"</" + tag + b">"
    return XML[start : XML.index(end, start) + len(end)]


FIRST = CLUSTERS[0].header.id
LAUGHS = b"".join(
    b'<!ENTITY l%d "%s">' % (number, b"&l%d;" % (number - 1) * 10) for number in range(1, 10)
)

OUTCOMES: dict[str, tuple[bytes, str | Counts]] = {
    # FASTA in other words
    "LF": (b">a\nMK\n>b\nVL\n", kept(2)),
    "CR LF": (b">a\r\nMK\r\nVL\r\n>b\r\nVL\r\n", kept(2)),
    "CR, as on the old Mac": (b">a\rMK\rVL\r>b\rVL\r", kept(2)),
    "mixed line ends": (b">a\r\nMK\rVL\n>b\nVL\r>c\nM", kept(3)),
    "no line end at the end": (b">a\nMK\n>b\nVL", kept(2)),
    "byte order mark": (b"\xef\xbb\xbf>a\nMK\n>b\nVL\n", kept(2)),
    "blank lines": (b"\n\n>a\n\nMK\n\n\nVL\n\n>b\n\nVL\n\n\n", kept(2)),
    "trailing white space": (b">a x  \nMK \t\nVL  \n>b\t\nVL \n", kept(2)),
    "spaces between residues": (b">a\nM K V L\n", kept(1)),
    "form feed": (b">a\nMK\x0cVL\n\x0b", kept(1)),
    "lower case": (b">a\nmkvlx\n>b\nMkVl\n", kept(2)),
    "final stop": (b">a\nMKVL*\n>b\nMK\n*\n", kept(2)),
    "all letters": (b">a\nABCDEFGHIJKLMNOPQRSTUVWXYZ\n", kept(1)),
    "one residue": (b">a\nM\n", kept(1)),
    "titin": (b">titin\n" + b"MKVLA" * 7042 + b"MKV\n", kept(1)),
    "titin in one line and CR LF": (b">titin\r\n" + b"MKVLA" * 7042 + b"MKV\r\n", kept(1)),
    "a line of 10 MB": (b">a\n" + b"MKVLAWFGHI" * 1_000_000 + b"\n>b\nMK\n", kept(2)),
    "a header line of 1 MB": (b">a " + b"name " * 200_000 + b"\nMK\n", kept(1)),
    "control characters in a header": (b">a one\x01>gi|2 two\nMK\n", kept(1)),
    "space before the id": (b"> a\nMK\n", kept(1)),
    "two > in a header": (b">>a\nMK\n", kept(1)),
    # headers that say less
    "no n=": (b">UniRef50_A Name Tax=root TaxID=1 RepID=X\nMK\n", kept(1)),
    "no Tax=": (b">UniRef50_A Name n=1 TaxID=1 RepID=X\nMK\n", kept(1)),
    "no TaxID=": (b">UniRef50_A Name n=1 Tax=root RepID=X\nMK\n", kept(1)),
    "no RepID=": (b">UniRef50_A Name n=1 Tax=root TaxID=1\nMK\n", kept(1)),
    "no name": (b">UniRef50_A n=1 Tax=root TaxID=1 RepID=X\nMK\n", kept(1)),
    "TaxID=N/A": (b">UniRef50_A Name n=1 Tax=unknown TaxID=N/A RepID=X\nMK\n", kept(1)),
    "numbers too large": (b">A Name n=99999999999 Tax=r TaxID=9" + b"9" * 30 + b"\nMK\n", kept(1)),
    "tags without values": (b">A Name n= Tax= TaxID= RepID=\nMK\n", kept(1)),
    "UTF-8 taxon": (">A Name n=1 Tax=Abies peña TaxID=1 RepID=X\nMK\n".encode(), kept(1)),
    "Latin-1 taxon": (b">A Name n=1 Tax=Abies pe\xf1a TaxID=1 RepID=X\nMK\n", kept(1)),
    # records that are dropped
    "stop within": (b">a\nMK*VL\n>b\nMK\n", other_characters(2)),
    "two final stops": (b">a\nMKVL**\n>b\nMK\n", other_characters(2)),
    "gaps": (b">a\nMK--VL\n>b\nMK.VL\n>c\nMK\n", other_characters(3, 2)),
    "digits": (b">a\n1 MKVLA 5\n>b\nMK\n", other_characters(2)),
    "> within a sequence": (b">a\nMK>VL\n>b\nMK\n", other_characters(2)),
    "> after a space": (b">a\nMK\n >b\nMK\n", other_characters(1)),
    "comment within a record": (b">a\n;comment\nMK\n>b\nMK\n", other_characters(2)),
    "UTF-8 in a sequence": (">a\nMKÀ\n>b\nMK\n".encode(), other_characters(2)),
    "Latin-1 in a sequence": (b">a\nMK\xc0\n>b\nMK\n", other_characters(2)),
    "header without sequence": (b">a\n>b\nMK\n", empty(2)),
    "last header without sequence": (b">a\nMK\n>b", empty(2)),
    "nothing but a stop": (b">a\n*\n>b\nMK\n", empty(2)),
    "nothing but white space": (b">a\n \n\t\n>b\nMK\n", empty(2)),
    "nothing but headers": (b">a\n>b\n>c\n", empty(3, 3)),
    "an id twice, equal": (b">a\nMK\n>a\nMK\n>b\nMK\n", duplicates(3)),
    "an id twice, unequal": (b">a one\nMK\n>b\nMK\n>a two\nVL\n", duplicates(3)),
    "an id of the other input": (b">good1\nMK\n>b\nMK\n", duplicates(2)),
    "an id three times": (b">a\nMK\n>a\nVL\n>a\nMK\n", duplicates(3, 2)),
    "one of each": (
        b">a\nMK\n>a\nMK\n>b\nM1\n>c\n>d\nmk*\n",
        (5, {"other_characters": 1, "empty_sequence": 1, "duplicate_id": 1}),
    ),
    # no FASTA
    "nothing": (b"", f"empty; {NO_HEADER}"),
    "nothing but blank lines": (b" \n\r\n\t\n", f"empty; {NO_HEADER}"),
    "a web page": (b"<!DOCTYPE html>\n<html>404</html>", f"a web page (HTML); {NO_KIND}"),
    "a web page in old words": (
        b"\n <HTML><HEAD><TITLE>302 Found",
        f"a web page (HTML); {NO_KIND}",
    ),
    "sequence before a header": (
        b"MKVLA\n>a\nMK\n",
        f"line 1: a sequence before any header: 'MKVLA'; {NO_HEADER}",
    ),
    "a sequence alone": (
        b"\nMKVLA*\n",
        f"line 2: a sequence before any header: 'MKVLA*'; {NO_HEADER}",
    ),
    "comment before a header": (b";comment\n>a\nMK\n", f"line 1: ';comment'; {NO_HEADER}"),
    "FASTQ": (b"@read/1\nACGT\n+\nIIII\n", f"line 1: '@read/1'; {NO_HEADER}"),
    "GenBank": (
        b"LOCUS       AB000001   300 bp\n",
        f"line 1: 'LOCUS       AB000001   300 bp'; {NO_HEADER}",
    ),
    "JSON": (b'{"id": "a"}', f'line 1: \'{{"id": "a"}}\'; {NO_HEADER}'),
    "CSV": (b"id,sequence\na,MK\n", f"line 1: 'id,sequence'; {NO_HEADER}"),
    "a long line": (b"x" * 50 + b"!\n", f"line 1: '{'x' * 40}...'; {NO_HEADER}"),
    "UTF-16": (">a\nMK\n".encode("utf-16"), f"UTF-16 text near record 1; {NO_TEXT}"),
    "UTF-16, big-endian": (">a\nMK\n".encode("utf-16-be"), f"a NUL byte near record 1; {NO_TEXT}"),
    "NUL in a sequence": (b">a\nMK\n>b\nM\0K\n", f"a NUL byte near record 2; {NO_TEXT}"),
    "NUL in a header": (b">a\0b\nMK\n", f"a NUL byte near record 1; {NO_TEXT}"),
    "binary": (
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        f"a NUL byte near record 1; {NO_TEXT}",
    ),
    "header without id": (
        b">a\nMK\n>\nMK\n",
        "record 2: a header line without an id; expected '>' followed by an id",
    ),
    "header of white space": (
        b"> \t \nMK\n",
        "record 1: a header line without an id; expected '>' followed by an id",
    ),
    # compressed
    "gzip members, and zeros": (
        gzip.compress(b">a\nM", mtime=0)
        + b"\0" * 99
        + gzip.compress(b"K\n>b\nMK\n", mtime=0)
        + b"\0" * 512,
        kept(2),
    ),
    "gzip of nothing": (gzip.compress(b"", mtime=0), f"empty; {NO_HEADER}"),
    "gzip cut in the header": (
        MEMBER[:7],
        f"the gzip data ends early after 0 complete records; {NO_GZIP}",
    ),
    "gzip cut in the checksum": (
        MEMBER[:-5],
        f"the gzip data ends early after 19 complete records; {NO_GZIP}",
    ),
    "gzip cut in the second member": (
        MEMBER + MEMBER[:9],
        f"the gzip data ends early after 19 complete records; {NO_GZIP}",
    ),
    "gzip with a wrong checksum": (
        MEMBER[:-8] + b"\0\0\0\0" + MEMBER[-4:],
        f"the gzip data is corrupt after 0 complete records; {NO_GZIP}",
    ),
    "gzip with a wrong length": (
        MEMBER[:-4] + b"\0\0\0\0",
        f"the gzip data is corrupt after 0 complete records; {NO_GZIP}",
    ),
    "gzip and something else": (
        MEMBER + b">a\nMK\n",
        f"other data follows the gzip data after 19 complete records; {NO_GZIP}",
    ),
    "gzip of gzip": (gzip.compress(MEMBER, mtime=0), f"gzip data within gzip data; {NO_KIND}"),
    "bzip2": (bz2.compress(FASTA), f"bzip2 data; {NO_KIND}"),
    "xz": (lzma.compress(FASTA), f"xz data; {NO_KIND}"),
    "Zstandard": (b"\x28\xb5\x2f\xfd" + FASTA, f"Zstandard data; {NO_KIND}"),
    "zip": (b"PK\x03\x04" + FASTA, f"a zip archive; {NO_KIND}"),
    "Parquet": (b"PAR1" + FASTA, f"Parquet; {NO_KIND}"),
    # UniRef XML
    "XML": (XML, kept(20)),
    "XML, compressed, CR LF": (gzip.compress(XML.replace(b"\n", b"\r\n"), mtime=0), kept(20)),
    "XML with an id twice": (
        changed(b"</UniRef50>", element(b"entry") + b"</UniRef50>"),
        duplicates(21),
    ),
    "entry without sequence": (changed(element(b"sequence"), b""), empty(20)),
    "entry with an empty sequence": (
        changed(element(b"sequence"), b'<sequence length="0" checksum="0"></sequence>'),
        empty(20),
    ),
    "entry without representative": (changed(element(b"representativeMember"), b""), empty(20)),
    "entry without anything": (changed(element(b"entry"), b'<entry id="a"/>'), empty(20)),
    "entry with digits": (
        changed(element(b"sequence"), b'<sequence length="3">M1K</sequence>'),
        other_characters(20),
    ),
    "entry in lower case": (
        changed(element(b"sequence"), b'<sequence length="4">mkvl</sequence>'),
        kept(20),
    ),
    "entry without id": (
        changed(f' id="{FIRST}"'.encode(), b""),
        "entry 1: id None; expected one word",
    ),
    "entry with a wrong length": (
        changed(element(b"sequence"), b'<sequence length="30">MKVL</sequence>'),
        f"entry 1 ({FIRST}): a sequence of 4 residues with length '30'; expected them to agree",
    ),
    "entry not closed": (
        changed(b"</entry>", b""),
        f"entry 1 ({FIRST}): mismatched tag; {NO_XML}",
    ),
    "undefined entity": (
        changed(b"<name>", b"<name>&laugh;"),
        f"entry 1 ({FIRST}): undefined entity; {NO_XML}",
    ),
    "text between entries": (
        changed(b"</entry>\n", b"</entry>\nlost"),
        f"entry 2 ({CLUSTERS[1].header.id}): text 'lost' between entries; {NO_XML}",
    ),
    "entity bomb": (
        b'<!DOCTYPE UniRef50 [<!ENTITY l0 "ha">' + LAUGHS + b"]><UniRef50>&l9;</UniRef50>",
        "a document type declaration (DOCTYPE UniRef50), which can define entities; "
        "expected UniRef XML, which has none",
    ),
    "external entity": (
        changed(
            b"<UniRef50",
            b'<!DOCTYPE UniRef50 [<!ENTITY x SYSTEM "file:///etc/passwd">]><UniRef50',
        ),
        "a document type declaration (DOCTYPE UniRef50), which can define entities; "
        "expected UniRef XML, which has none",
    ),
    "XML not closed": (
        changed(b"</UniRef50>", b""),
        "the XML ends early after 20 complete entries; expected </UniRef50>",
    ),
    "XML cut in an entry": (
        XML[:-200],
        "the XML ends early after 19 complete entries; expected </UniRef50>",
    ),
    "XML cut in the head": (
        XML[:50],
        "the XML ends early after 0 complete entries; expected </UniRef50>",
    ),
    "XML without entries": (uniref_xml([]), "no entry; expected UniRef XML with entries"),
    "XML of something else": (
        b'<?xml version="1.0"?><uniprot><entry></entry></uniprot>',
        "root element 'uniprot'; expected UniRef50, as in uniref50.xml",
    ),
    "XML in another encoding": (
        changed(b"ISO-8859-1", b"windows-1252"),
        "encoding 'windows-1252'; expected one of utf-8, us-ascii, iso-8859-1",
    ),
    "XML with NUL": (
        changed(b"<name>", b"<name>\0"),
        "a NUL byte after 0 complete entries; expected XML as text",
    ),
    "XML and more": (
        XML + b"<UniRef50/>",
        f"after 20 complete entries: junk after document element; {NO_XML}",
    ),
    # archives
    "archive": (release_archive(XML), kept(20)),
    "archive without uniref50": (
        tar({"README": b"", "uniref90.tar": b""}),
        f"an archive of README, uniref90.tar; {NO_UNIREF50}",
    ),
    "archive with ..": (
        tar({"../uniref50.xml": XML}),
        "member '../uniref50.xml' leads out of the archive; expected plain names",
    ),
    "archive with an absolute name": (
        tar({"/uniref50.xml": XML}),
        "member '/uniref50.xml' leads out of the archive; expected plain names",
    ),
    "archive cut short": (
        release_archive(XML)[:2000],
        f"the gzip data ends early; {NO_GZIP}",
    ),
    "archive with a web page": (
        tar({"uniref50.xml": b"<html>404</html>"}),
        f"uniref50.xml: a web page (HTML); {NO_KIND}",
    ),
}


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Undo what `main` does to the root logger: its handler would outlive the captured stderr."""
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    (tmp_path / "good").write_bytes(GOOD)
    (tmp_path / "ids").write_text("good2\n")
    return tmp_path


def shard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the command on the inputs of `folder` and return its exit status."""
    arguments = ["input", "good", "--validation-ids", "ids", "--shards", "1", "--output", "corpus"]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["esm1b", "shard", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code or 0  # type: ignore[return-value]  # an integer or None


def test_there_are_enough() -> None:
    assert len(OUTCOMES) >= 100


@pytest.mark.parametrize("name", OUTCOMES)
def test_blocks(name: str, tmp_path: Path) -> None:
    content, outcome = OUTCOMES[name]
    path = tmp_path / "input"
    path.write_bytes(content)
    for block_bytes in (1 << 20, 64) if len(content) < 100_000 else (1 << 20,):
        blocks = raw_blocks(InputFile(str(path)), block_bytes)
        if isinstance(outcome, str):
            with pytest.raises(UserError) as caught:
                list(map(parse_block, blocks))
            told = [str(caught.value), f"{path}: {outcome}"]
            if block_bytes == 64:  # how far reading came is told in blocks
                told = [re.sub(r"(near record|after) \d+", "", text) for text in told]
            assert told[0] == told[1]
        else:
            parsed = [parse_block(block) for block in blocks]
            assert sum(len(block.headers) for block in parsed) == outcome[0]
            assert sum(len(block.sequences) for block in parsed) == outcome[0]


@pytest.mark.parametrize("name", OUTCOMES)
def test_command(
    name: str,
    inputs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content, outcome = OUTCOMES[name]
    (inputs / "input").write_bytes(content)
    status = shard(inputs, monkeypatch)
    message = capsys.readouterr().err.splitlines()[-1]
    if isinstance(outcome, str):
        assert status == 2
        assert message == f"esm1b: error: input: {outcome}"
        assert sorted(path.name for path in inputs.iterdir()) == ["good", "ids", "input"]
        return
    assert status == 0, message
    manifest = json.loads((inputs / "corpus" / "manifest.json").read_text())
    records, dropped = outcome
    counts = manifest["counts"]
    assert counts["read"] == records + 2
    assert {reason: count for reason, count in counts["dropped"].items() if count} == dropped
    assert counts["kept"] == records + 2 - sum(dropped.values())
    files = (inputs / "corpus").glob("*/*.parquet")
    assert sum(pq.read_metadata(file).num_rows for file in files) == counts["kept"]


@pytest.mark.parametrize("content", [FASTA, XML], ids=["FASTA", "XML"])
def test_gzip_cut_at_any_place(content: bytes, tmp_path: Path) -> None:
    compressed = gzip.compress(content, mtime=0)
    path = tmp_path / "input"
    for end in range(2, len(compressed), 79):
        path.write_bytes(compressed[:end])
        with pytest.raises(UserError, match=r"the gzip data ends early after \d+ complete"):
            list(map(parse_block, raw_blocks(InputFile(str(path)), 512)))


@pytest.mark.parametrize("content", [FASTA, XML, MEMBER, release_archive(XML)])
def test_any_damage_is_told_or_counted(content: bytes, tmp_path: Path) -> None:
    """Sixty times, some bytes are replaced: never anything but a UserError."""
    random_numbers = random.Random(0)
    path = tmp_path / "input"
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(random_numbers.randrange(1, 4)):
            damaged[random_numbers.randrange(len(damaged))] = random_numbers.randrange(256)
        path.write_bytes(damaged)
        try:
            blocks = [parse_block(block) for block in raw_blocks(InputFile(str(path)), 4096)]
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017 (either outcome is one)
        else:
            assert all(len(block.headers) == len(block.sequences) for block in blocks)
