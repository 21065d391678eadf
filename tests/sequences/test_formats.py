import gzip
import io
import pickle
import sys
from pathlib import Path

import pytest

from esm1b.corpus.records.selection import Selection
from esm1b.corpus.sharding.shard import shard
from esm1b.errors import UserError
from esm1b.files import sha256_file
from esm1b.sequences.formats import RawBlock, RecordBlock, parse_block, raw_blocks
from esm1b.sequences.input_file import InputFile
from tests.sequences.uniref_files import (
    draw_clusters,
    release_archive,
    tar,
    uniref_fasta,
    uniref_xml,
)

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
