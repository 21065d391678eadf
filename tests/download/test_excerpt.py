import gzip
import hashlib
import logging
from pathlib import Path

import pytest

from benchmarks.uniref_files import (
    Cluster,
    draw_clusters,
    release_archive,
    uniref_fasta,
    uniref_xml,
)
from esm1b.corpus.records.selection import Selection
from esm1b.corpus.sharding.shard import shard
from esm1b.errors import DownloadError, UserError
from esm1b.sequences.formats import parse_block, raw_blocks
from esm1b.sequences.hashes import SAMPLE_KEY, sequence_hashes
from esm1b.sequences.input_file import InputFile
from tests.download.published_releases import (
    ARCHIVE,
    ARCHIVE_METALINK,
    CURRENT,
    CURRENT_METALINK,
    FASTA,
    RECORDS,
    WRONG,
    check_nothing,
    fetch,
)
from tests.download.server import Fault, ReleaseServer, metalink


def test_the_first_bytes(
    server: ReleaseServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lock = fetch(tmp_path, server, limit="100kB")
    path = tmp_path / "uniref50.2026_03.first-100kB.fasta.gz"
    assert lock["file"] == path.name
    text = gzip.decompress(path.read_bytes())
    assert b"".join(RECORDS).startswith(text)
    assert text.count(b">") == lock["records"] == text.count(b"\n") // 2
    assert 70 < lock["records"] < 90  # 2,000 residues take about 1.2 kB
    assert lock["mean_length"] == 2000.0
    assert server.ranges(CURRENT) == ["bytes=0-99999"]
    assert (lock["limit"], lock["sample"], lock["verified_by"]) == ("100kB", None, None)
    assert lock["part_of"] == {
        "file": "uniref50.fasta.gz",
        "size": len(FASTA),
        "digests": {"md5": hashlib.md5(FASTA).hexdigest()},
    }
    assert lock["digests"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "mean length of 2000 residues: UniRef50 files begin with the longest" in (
        warning.getMessage()
    )
    del server.requests[:]
    assert fetch(tmp_path, server, limit="100kB") == lock
    assert server.bytes_sent(CURRENT) == 0


@pytest.mark.parametrize("faults", [[], [Fault(cut_after=1000)], [Fault(ignores_range=True)]])
def test_the_first_records(faults: list[Fault], server: ReleaseServer, tmp_path: Path) -> None:
    server.faults[CURRENT] = faults
    lock = fetch(tmp_path, server, limit="3records")
    text = gzip.decompress((tmp_path / lock["file"]).read_bytes())
    assert text == b"".join(RECORDS[:3])
    assert lock["records"] == 3


@pytest.mark.parametrize("limit", ["1GB", "300records", "301records"])
def test_a_limit_beyond_the_end(limit: str, server: ReleaseServer, tmp_path: Path) -> None:
    lock = fetch(tmp_path, server, limit=limit)
    assert gzip.decompress((tmp_path / lock["file"]).read_bytes()) == b"".join(RECORDS)


def test_a_limit_on_files_of_several_members(server: ReleaseServer, tmp_path: Path) -> None:
    halves = [gzip.compress(b"".join(part)) for part in (RECORDS[:2], RECORDS[2:])]
    data = b"".join(halves)
    server.files[CURRENT] = data
    server.files[CURRENT_METALINK] = metalink("2026_03", {"uniref50.fasta.gz": data})
    lock = fetch(tmp_path, server, limit="5records")
    text = gzip.decompress((tmp_path / lock["file"]).read_bytes())
    assert text == b"".join(RECORDS[:5])


@pytest.mark.parametrize("limit", ["2B", "30B", "100B", "1kB"])
def test_a_limit_without_a_whole_record(limit: str, server: ReleaseServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"limit '{limit}': no whole record in it"):
        fetch(tmp_path, server, limit=limit)
    check_nothing(tmp_path)


def test_a_limit_of_an_archive(server: ReleaseServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="an archive in which UniRef50 comes last; expected the"):
        fetch(tmp_path, server, release="2018_03", limit="10MB")
    assert server.bytes_sent(ARCHIVE) == 0


@pytest.mark.parametrize("limit", ["", "10", "0B", "ten", "1.5MB", "10MiB", "-1B", "0records"])
def test_what_is_no_limit(limit: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected bytes as in '10MB', or '1000records'"):
        fetch(tmp_path, "http://127.0.0.1:1", limit=limit)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            gzip.compress(b"<html>" + bytes(10_000), mtime=0),
            r"a web page \(HTML\); expected a FASTA header line beginning with '>'",
        ),
        (
            gzip.compress(b">P1 a protein" + bytes(10_000), mtime=0),
            "a NUL byte near record 1; expected FASTA as plain ASCII text",
        ),
        (FASTA[:50_000] + WRONG[50_000:], "the gzip data is corrupt"),
    ],
)
def test_a_beginning_that_is_no_fasta(
    content: bytes, message: str, server: ReleaseServer, tmp_path: Path
) -> None:
    server.files[CURRENT] = content
    server.files[CURRENT_METALINK] = metalink("2026_03", {"uniref50.fasta.gz": content})
    with pytest.raises(DownloadError, match=message):
        fetch(tmp_path, server, limit="250records")
    check_nothing(tmp_path)


def test_options_that_exclude_each_other(tmp_path: Path) -> None:
    for options in (
        {"limit": "1MB", "sample": 0.1},
        {"limit": "1MB", "digest": f"md5:{'0' * 32}"},
        {"sample": 0.0},
        {"sample": 1.0},
    ):
        with pytest.raises(UserError, match=r"; expected|: expected"):
            fetch(tmp_path, "http://127.0.0.1:1", **options)


CLUSTERS = draw_clusters(400)
CLUSTERS_FASTA = gzip.compress(uniref_fasta(CLUSTERS), mtime=0)
CLUSTERS_ARCHIVE = release_archive(uniref_xml(CLUSTERS))


def publish_clusters(server: ReleaseServer) -> None:
    """Put the same clusters on a server as the current release and as 2018_03."""
    server.files[CURRENT] = CLUSTERS_FASTA
    server.files[CURRENT_METALINK] = metalink("2026_03", {"uniref50.fasta.gz": CLUSTERS_FASTA})
    server.files[ARCHIVE] = CLUSTERS_ARCHIVE
    server.files[ARCHIVE_METALINK] = metalink("2018_03", {"uniref2018_03.tar.gz": CLUSTERS_ARCHIVE})


def clusters_of(path: Path) -> list[Cluster]:
    return [
        Cluster(header=header, sequence=sequence.decode())
        for raw in raw_blocks(InputFile(str(path)))
        for block in [parse_block(raw)]
        for header, sequence in zip(block.headers, block.sequences, strict=True)
    ]


def test_a_sample(server: ReleaseServer, tmp_path: Path) -> None:
    publish_clusters(server)
    server.faults[CURRENT] = [Fault(cut_after=10_000)]
    lock = fetch(tmp_path / "a", server, sample=0.25)
    path = tmp_path / "a" / "uniref50.2026_03.sample-0.25.fasta.gz"
    assert lock["file"] == path.name
    hashes = sequence_hashes((cluster.sequence.encode() for cluster in CLUSTERS), SAMPLE_KEY)
    expected = [cluster for cluster, hash_ in zip(CLUSTERS, hashes, strict=True) if hash_ < 2**62]
    assert clusters_of(path) == expected
    assert 60 < len(expected) < 140
    assert (lock["records"], lock["records_read"]) == (len(expected), 400)
    assert (lock["sample"], lock["limit"]) == (0.25, None)
    assert lock["verified_by"] == "RELEASE.metalink"
    assert server.bytes_sent(CURRENT) == len(CLUSTERS_FASTA)
    smaller = fetch(tmp_path / "b", server, sample=0.1)
    few = clusters_of(tmp_path / "b" / smaller["file"])
    assert 0 < len(few) < len(expected)
    assert [cluster for cluster in expected if cluster in few] == few


def test_sampling_before_or_while_sharding(server: ReleaseServer, tmp_path: Path) -> None:
    publish_clusters(server)
    whole = tmp_path / "whole" / fetch(tmp_path / "whole", server)["file"]
    sample = tmp_path / "sample" / fetch(tmp_path / "sample", server, sample=0.5)["file"]
    fingerprints = {
        shard(
            [str(path)],
            tmp_path / path.name,
            Selection(validation_fraction=0.2, sample=share),
            shards=1,
        )["fingerprint"]
        for path, share in ((whole, 0.5), (sample, None), (sample, 0.5))
    }
    assert len(fingerprints) == 1


def test_a_sample_of_an_archive_is_that_of_the_fasta_file(
    server: ReleaseServer, tmp_path: Path
) -> None:
    publish_clusters(server)
    server.faults[ARCHIVE] = [Fault(cut_after=10_000)]
    old = fetch(tmp_path / "a", server, release="2018_03", sample=0.25)
    new = fetch(tmp_path / "b", server, sample=0.25)
    assert old["digests"] == new["digests"]
    assert old["part_of"]["file"] == "uniref2018_03.tar.gz"
    assert server.bytes_sent(ARCHIVE) == len(CLUSTERS_ARCHIVE)


@pytest.mark.parametrize(
    "content",
    [
        CLUSTERS_FASTA[:-9] + b"?" + CLUSTERS_FASTA[-8:],
        CLUSTERS_FASTA[:9000] + bytes(len(CLUSTERS_FASTA) - 9000),
        gzip.compress(uniref_fasta(CLUSTERS[1:] + CLUSTERS[:1]))[: len(CLUSTERS_FASTA)],
    ],
)
def test_a_sample_of_the_wrong_bytes(
    content: bytes, server: ReleaseServer, second: ReleaseServer, tmp_path: Path
) -> None:
    publish_clusters(server)
    publish_clusters(second)
    server.faults[CURRENT] = [Fault(body=content + bytes(len(CLUSTERS_FASTA) - len(content)))]
    with pytest.raises(DownloadError, match=r"md5 .*; failed verification twice, deleted"):
        fetch(tmp_path, server, sample=0.25)
    check_nothing(tmp_path)
    lock = fetch(tmp_path, server, second, sample=0.25)
    assert lock["url"] == second.url + CURRENT


def test_a_sample_of_what_cannot_be_read(server: ReleaseServer, tmp_path: Path) -> None:
    content = gzip.compress(b"<html>" * 100)
    server.files[CURRENT] = content
    server.files[CURRENT_METALINK] = metalink("2026_03", {"uniref50.fasta.gz": content})
    with pytest.raises(UserError, match=r"uniref50\.fasta\.gz: a web page"):
        fetch(tmp_path, server, sample=0.25)
    check_nothing(tmp_path)


def test_a_sample_of_a_file_that_changes(server: ReleaseServer, tmp_path: Path) -> None:
    publish_clusters(server)
    server.faults[CURRENT] = [
        Fault(cut_after=10_000, headers={"ETag": '"old"'}),
        Fault(headers={"ETag": '"new"'}),
    ]
    assert fetch(tmp_path, server, sample=0.25)["records_read"] == 400
    assert server.ranges(CURRENT) == [None, "bytes=10000-", None]
