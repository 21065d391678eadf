import gzip
import io
import pickle
import sys
import tarfile
from pathlib import Path

import pytest

from benchmarks.uniref_files import (
    draw_clusters,
    release_archive,
    tar,
    uniref_fasta,
    uniref_xml,
)
from esm1b.corpus.records.selection import Selection
from esm1b.corpus.sharding.shard import shard
from esm1b.errors import UserError
from esm1b.files import sha256_file
from esm1b.sequences.formats import RawBlock, parse_block, raw_blocks
from esm1b.sequences.input_file import InputFile
from esm1b.sequences.record import RecordBlock

CLUSTERS = draw_clusters(60, seed=1)


def written(folder: Path, content: bytes, name: str = "input") -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


def records_of(name: str, block_bytes: int = 1 << 20) -> RecordBlock:
    blocks = [parse_block(block) for block in raw_blocks(InputFile(name), block_bytes)]
    return RecordBlock(
        headers=[header for block in blocks for header in block.headers],
        sequences=[sequence for block in blocks for sequence in block.sequences],
    )


SHAPES = {
    "fasta": uniref_fasta(CLUSTERS),
    "fasta.gz": gzip.compress(uniref_fasta(CLUSTERS), mtime=0),
    "xml of 2018_03": uniref_xml(CLUSTERS),
    "xml of today, gz": gzip.compress(uniref_xml(CLUSTERS, wrapped=False), mtime=0),
    "release archive": release_archive(uniref_xml(CLUSTERS)),
    "archive without gzip": gzip.decompress(release_archive(uniref_xml(CLUSTERS))),
    "archive of UniRef50": gzip.decompress(release_archive(uniref_xml(CLUSTERS), levels=())),
    "archive with plain XML": tar({"x/uniref50.xml": uniref_xml(CLUSTERS)}),
    "archive with FASTA": tar({"README": b"", "./uniref50.fasta": uniref_fasta(CLUSTERS)}),
    "archive with archive.gz": tar(
        {"uniref50.tar.gz": gzip.compress(tar({"uniref50.xml": uniref_xml(CLUSTERS)}), mtime=0)}
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("block_bytes", [700, 1 << 20])
def test_every_shape_gives_the_same_records(tmp_path: Path, shape: str, block_bytes: int) -> None:
    found = records_of(written(tmp_path, SHAPES[shape]), block_bytes)
    assert found.headers == [cluster.header for cluster in CLUSTERS]
    assert found.sequences == [cluster.sequence.encode() for cluster in CLUSTERS]


def test_both_shapes_of_a_release_give_identical_shards(tmp_path: Path) -> None:
    """FASTA as today's releases, and the nested archive of XML that is all there is of 2018_03."""
    clusters = draw_clusters(300)
    shapes = {
        "uniref50.fasta.gz": gzip.compress(uniref_fasta(clusters), mtime=0),
        "uniref2018_03.tar.gz": release_archive(uniref_xml(clusters)),
    }
    manifests = {}
    for name, content in shapes.items():
        corpus = tmp_path / f"corpus of {name}"
        written(tmp_path, content, name)
        manifest = shard(
            [str(tmp_path / name)], corpus, Selection(validation_fraction=0.1), shards=3
        )
        assert manifest.pop("inputs")[0]["file"] == name
        manifests[name] = manifest
        for entry in (*manifest["shards"]["train"], *manifest["shards"]["validation"]):
            assert sha256_file(corpus / entry["file"]) == entry["sha256"]
    first, second = manifests.values()
    assert first == second
    assert first["counts"]["kept"] == 300


@pytest.mark.parametrize("shape", ["fasta.gz", "xml of 2018_03", "release archive"])
def test_blocks_count_the_records_before_them(tmp_path: Path, shape: str) -> None:
    before = 0
    blocks = list(raw_blocks(InputFile(written(tmp_path, SHAPES[shape])), 2000))
    assert len(blocks) > 5
    for block in blocks:
        assert block.first_record == before
        before += len(parse_block(pickle.loads(pickle.dumps(block))).headers)
    assert before == 60


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Piped:
        buffer = io.BytesIO(SHAPES["release archive"])

    monkeypatch.setattr(sys, "stdin", Piped)
    file = InputFile("-")
    blocks = list(raw_blocks(file))
    assert sum(len(parse_block(block).headers) for block in blocks) == 60
    assert blocks[0].source == "standard input: uniref50.tar: uniref50.xml.gz"
    assert file.identity()["bytes"] == len(SHAPES["release archive"])


def test_identity_of_an_archive_that_was_read_to_its_end(tmp_path: Path) -> None:
    file = InputFile(written(tmp_path, SHAPES["release archive"]))
    list(raw_blocks(file))
    identity = file.identity()
    assert identity["bytes"] == len(SHAPES["release archive"])
    assert len(identity["sha256"]) == 64


def test_what_follows_uniref50_in_an_archive_is_not_read(tmp_path: Path) -> None:
    content = tar({"uniref50.xml": uniref_xml(CLUSTERS), "uniref90.tar": b"x" * (16 << 20)})
    file = InputFile(written(tmp_path, content))
    blocks = list(raw_blocks(file, 1 << 18))
    assert sum(len(parse_block(block).headers) for block in blocks) == 60
    assert file.bytes_read < 4 << 20
    assert file.identity() == {"file": "input", "bytes": len(content), "sha256": None}


def test_error_of_a_record_names_input_and_record() -> None:
    block = RawBlock(text=b">a\nMK\n> \nMK", kind="fasta", source="x.fasta", first_record=7)
    with pytest.raises(UserError, match=r"^x\.fasta: record 9: a header line without an id;"):
        parse_block(block)


XML = uniref_xml(draw_clusters(30))
ARCHIVE = release_archive(XML)
PLAIN = gzip.decompress(ARCHIVE)


def read(folder: Path, content: bytes) -> int:
    """Return the number of records."""
    path = folder / "release.tar.gz"
    path.write_bytes(content)
    return sum(len(parse_block(block).headers) for block in raw_blocks(InputFile(str(path)), 4096))


def refusal(folder: Path, content: bytes) -> str:
    with pytest.raises(UserError) as caught:
        read(folder, content)
    return str(caught.value).removeprefix(f"{folder}/")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"README": b"", "uniref90.tar": b"", "uniref90.xml.gz": b""},
            "release.tar.gz: an archive of README, uniref90.tar, uniref90.xml.gz; expected a whole "
            "archive with uniref50.tar, uniref50.xml.gz or uniref50.fasta.gz",
        ),
        (
            {f"{number}.txt": b"" for number in range(20)},
            "release.tar.gz: an archive of 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, 5.txt, 6.txt, 7.txt, "
            "...; expected a whole archive with uniref50.tar, uniref50.xml.gz or uniref50.fasta.gz",
        ),
        (
            {"../uniref50.xml": XML},
            "release.tar.gz: member '../uniref50.xml' leads out of the archive; "
            "expected plain names",
        ),
        (
            {"a/../../x": b"", "uniref50.xml": XML},
            "release.tar.gz: member 'a/../../x' leads out of the archive; expected plain names",
        ),
        (
            {"/etc/passwd": b"", "uniref50.xml": XML},
            "release.tar.gz: member '/etc/passwd' leads out of the archive; expected plain names",
        ),
        (
            {"uniref50.tar": tar({"README": b"", "uniref50.release_note": b""})},
            "release.tar.gz: uniref50.tar: an archive of README, uniref50.release_note; expected a "
            "whole archive with uniref50.tar, uniref50.xml.gz or uniref50.fasta.gz",
        ),
        (
            {"uniref50.xml.gz": gzip.compress(gzip.compress(XML, mtime=0), mtime=0)},
            "release.tar.gz: uniref50.xml.gz: gzip data within gzip data; "
            "expected FASTA, UniRef XML or a UniProt release archive, plain or gzip-compressed",
        ),
        (
            {"uniref50.xml": b""},
            "release.tar.gz: uniref50.xml: empty; expected a FASTA header line beginning with '>'",
        ),
        (
            {"uniref50.xml": XML[:-40]},
            "release.tar.gz: uniref50.xml: the XML ends early after 29 complete entries; "
            "expected </UniRef50>",
        ),
        (
            {"uniref50.xml.gz": gzip.compress(XML, mtime=0)[:-4]},
            "release.tar.gz: uniref50.xml.gz: the gzip data ends early after 30 complete entries; "
            "expected a complete .gz file",
        ),
    ],
)
def test_archives_without_a_whole_uniref50(
    tmp_path: Path, members: dict[str, bytes], message: str
) -> None:
    assert refusal(tmp_path, tar(members)) == message
    assert refusal(tmp_path, gzip.compress(tar(members), mtime=0)) == message


def test_an_empty_archive(tmp_path: Path) -> None:
    assert refusal(tmp_path, tar({})) == (
        "release.tar.gz: a NUL byte near record 1; expected FASTA as plain ASCII text"
    )


def test_a_link_and_a_folder_are_not_uniref50(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("uniref50.xml")
            member.type = kind
            member.linkname = "/etc/passwd"
            archive.addfile(member)
    assert refusal(tmp_path, buffer.getvalue()).startswith(
        "release.tar.gz: an archive of uniref50.xml, uniref50.xml, uniref50.xml, uniref50.xml;"
    )


@pytest.mark.parametrize("layout", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_every_layout_of_tar(tmp_path: Path, layout: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=layout) as archive:
        for name, content in {f"{'folder/' * 20}uniref50.xml": XML, "x": b""}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert read(tmp_path, buffer.getvalue()) == 30


@pytest.mark.parametrize("part", range(50))
def test_an_archive_cut_short_is_refused(tmp_path: Path, part: int) -> None:
    assert "expected" in refusal(tmp_path, ARCHIVE[: 1 + len(ARCHIVE) * part // 50])


def test_a_plain_archive_cut_short_is_refused_unless_only_padding_is_gone(tmp_path: Path) -> None:
    end_of_content = PLAIN.rindex(gzip.compress(XML, mtime=0)[-8:]) + 8
    for size in range(512, end_of_content, 997):
        assert "expected" in refusal(tmp_path, PLAIN[:size])
    # the end of the inner archive is missing, then that of the outer one
    assert "the tar archive ends early" in refusal(tmp_path, PLAIN[: end_of_content + 1])
    assert read(tmp_path, PLAIN[:-1024]) == 30


def test_damage_anywhere_is_refused_or_without_effect(tmp_path: Path) -> None:
    refused = 0
    for position in range(0, len(ARCHIVE), 29):
        damaged = bytearray(ARCHIVE)
        damaged[position] ^= 0x10
        try:
            assert read(tmp_path, bytes(damaged)) == 30  # a time stamp, say
        except UserError:
            refused += 1
    assert refused > len(ARCHIVE) // 29 - 10
