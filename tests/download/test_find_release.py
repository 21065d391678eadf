import hashlib
import re
from pathlib import Path

import pytest

from esm1b.errors import DownloadError, UserError
from tests.download.published_releases import (
    ARCHIVE,
    ARCHIVE_METALINK,
    CURRENT,
    CURRENT_METALINK,
    FASTA,
    UNAVAILABLE,
    XML,
    check_nothing,
    check_whole,
    fetch,
)
from tests.download.server import Fault, ReleaseServer, metalink


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Not Found", "not XML"),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><metalink/>", "declares a document type"),
        (b"<metalink/>", "it does not name its release"),
        (metalink("2026_03", {"other.gz": FASTA}), "it does not list uniref50.fasta.gz"),
        (
            b'<metalink><version>2026_03</version><files><file name="uniref50.fasta.gz">'
            b"<size>3</size></file></files></metalink>",
            "it gives no digest of uniref50.fasta.gz",
        ),
        (b"<metalink>" + b" " * (5 << 20), "longer than 4194304 bytes"),
    ],
)
def test_a_malformed_metalink(
    content: bytes, message: str, server: ReleaseServer, second: ReleaseServer, tmp_path: Path
) -> None:
    server.files[CURRENT_METALINK] = content
    with pytest.raises(DownloadError, match=re.escape(message)) as caught:
        fetch(tmp_path, server)
    assert str(caught.value).startswith(f"UniRef50 current: {server.url}{CURRENT_METALINK}: ")
    check_whole(tmp_path, fetch(tmp_path, server, second))


def test_a_missing_metalink(server: ReleaseServer, second: ReleaseServer, tmp_path: Path) -> None:
    del server.files[CURRENT_METALINK]
    with pytest.raises(DownloadError, match=f"{CURRENT_METALINK}: 404 Not Found"):
        fetch(tmp_path, server)
    check_whole(tmp_path, fetch(tmp_path, server, second))


def test_a_metalink_of_another_release(server: ReleaseServer, tmp_path: Path) -> None:
    server.files[ARCHIVE_METALINK] = metalink("2018_04", {"uniref2018_03.tar.gz": XML})
    with pytest.raises(DownloadError, match="it is of release 2018_04; expected 2018_03"):
        fetch(tmp_path, server, release="2018_03")


def test_a_cut_metalink(server: ReleaseServer, second: ReleaseServer, tmp_path: Path) -> None:
    server.faults[CURRENT_METALINK] = [Fault(cut_after=100), UNAVAILABLE]
    check_whole(tmp_path, fetch(tmp_path, server, second))


def test_an_earlier_release_though_the_current_one_is_not_told(
    server: ReleaseServer, tmp_path: Path
) -> None:
    server.files[CURRENT_METALINK] = b"<html>"
    assert fetch(tmp_path, server, release="2018_03")["file"] == "uniref2018_03.tar.gz"


def test_a_given_digest(server: ReleaseServer, tmp_path: Path) -> None:
    digest = f"SHA256:{hashlib.sha256(FASTA).hexdigest().upper()}"
    check_whole(tmp_path, fetch(tmp_path, server, digest=digest))
    other = f"sha256:{'0' * 64}"
    with pytest.raises(UserError, match=f"expected {'0' * 64}"):
        fetch(tmp_path, server, release="2026_03", digest=other)
    with pytest.raises(DownloadError, match=f"expected {'0' * 64}; failed verification twice"):
        fetch(tmp_path / "other", server, digest=other)
    check_nothing(tmp_path / "other")


def test_a_given_digest_against_that_of_the_metalink(server: ReleaseServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"RELEASE.metalink of 2026_03 says"):
        fetch(tmp_path, server, digest=f"md5:{'0' * 32}")
    assert server.bytes_sent(CURRENT) == 0


def test_a_given_digest_without_a_metalink(server: ReleaseServer, tmp_path: Path) -> None:
    del server.files[ARCHIVE_METALINK]
    server.faults[ARCHIVE] = [Fault(cut_after=100_000)]
    digest = f"md5:{hashlib.md5(XML).hexdigest()}"
    lock = fetch(tmp_path, server, release="2018_03", digest=digest)
    assert (tmp_path / "uniref2018_03.tar.gz").read_bytes() == XML
    assert lock["verified_by"] == "a given digest"
    assert server.bytes_sent(ARCHIVE) == len(XML)


@pytest.mark.parametrize("text", ["", "md5", "md5:", "md5:0", "crc:", "crc32:00000000", "0" * 32])
def test_what_is_no_digest(text: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="expected md5, sha1, sha256, sha512, ':' and hexadecimal digits"
    ):
        fetch(tmp_path, "http://127.0.0.1:1", digest=text)
