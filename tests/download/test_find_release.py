import contextlib
import hashlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm1b.download.find_release import ListedFile, MetalinkError, parse_metalink
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


# In the form of https://ftp.uniprot.org, with the numbers of 2026_03
UNIPROT = b"""<metalink xmlns="http://www.metalinker.org/" version="3.0">
  <publisher>
    <name>UniProt Consortium</name>
    <url>http://www.uniprot.org/</url>
  </publisher>
  <license>
    <name>Creative Commons Attribution 4.0 International (CC BY 4.0)</name>
    <url>http://creativecommons.org/licenses/by/4.0/</url>
  </license>
  <description>UniProt</description>
  <version>2026_03</version>
  <files>
    <file name="uniref50.fasta.gz">
      <size>8780552383</size>
      <verification>
        <hash type="md5">0492e3cf4093276ae4319ba24d52514f</hash>
      </verification>
      <resources>
        <url type="ftp" location="ch" preference="100">ftp://ftp.expasy.org/uniref50.fasta.gz</url>
        <url type="ftp" location="us" preference="100">ftp://ftp.uniprot.org/uniref50.fasta.gz</url>
      </resources>
    </file>
    <file name="uniref50.xml.gz">
      <size>20587679812</size>
      <verification>
        <hash type="md5">4926339EE83C848146B4C46F66D51D1C</hash>
        <hash type="sha256">aabbccddeeff00112233445566778899aabbccddeeff00112233445566778899</hash>
        <pieces length="262144" type="sha1"><hash piece="0">not of the file</hash></pieces>
      </verification>
    </file>
  </files>
</metalink>
"""


def test_the_form_that_uniprot_writes() -> None:
    version, files = parse_metalink(UNIPROT)
    assert version == "2026_03"
    assert files == {
        "uniref50.fasta.gz": ListedFile(
            size=8780552383, digests={"md5": "0492e3cf4093276ae4319ba24d52514f"}
        ),
        "uniref50.xml.gz": ListedFile(
            size=20587679812,
            digests={
                "md5": "4926339ee83c848146b4c46f66d51d1c",
                "sha256": "aabbccddeeff00112233445566778899aabbccddeeff00112233445566778899",
            },
        ),
    }


def test_metalink_4() -> None:
    version, files = parse_metalink(
        b'<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="a.gz"><size>3</size>'
        b'<hash type="sha-1">a9993e364706816aba3e25717850c26c9cd0d89d</hash>'
        b'<hash type="whirlpool">abc</hash></file></metalink>'
    )
    assert version is None
    assert files == {
        "a.gz": ListedFile(size=3, digests={"sha1": "a9993e364706816aba3e25717850c26c9cd0d89d"})
    }


def file_with(content: str) -> bytes:
    return f'<metalink><files><file name="a.gz">{content}</file></files></metalink>'.encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not XML: no element found"),
        (b"<!DOCTYPE html>\n<html></html>", "it declares a document type"),
        (b"<html></html>", "its root is <html>; expected <metalink>"),
        (b"404 Not Found", "not XML: syntax error"),
        (UNIPROT[:-14], "not XML: unclosed token"),
        (b"\x1f\x8b\x08", "not XML: not well-formed"),
        (file_with("<size>many</size>"), "size 'many' of 'a.gz'; expected a number of bytes"),
        (file_with("<size>-1</size>"), "size '-1' of 'a.gz'"),
        (file_with('<hash type="md5">0492</hash>'), "md5 '0492' of 'a.gz'; expected 32 hex digits"),
        (file_with(f'<hash type="md5">{"g" * 32}</hash>'), "expected 32 hex digits"),
        (b"<metalink><file><size>1</size></file></metalink>", "a <file> without a name"),
        (
            b'<metalink><file name="a"><size>1</size></file>'
            b'<file name="a"><size>2</size></file></metalink>',
            "it lists 'a' twice, and differently",
        ),
    ],
)
def test_what_is_no_metalink(data: bytes, message: str) -> None:
    with pytest.raises(MetalinkError, match=re.escape(message)):
        parse_metalink(data)


def test_entities_are_refused() -> None:
    levels = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(9))
    bomb = f'<!DOCTYPE metalink [<!ENTITY e0 "ha">{levels}]><metalink>&e9;</metalink>'
    outside = (
        '<!DOCTYPE metalink [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
        "<metalink><version>&e;</version></metalink>"
    )
    for text in (bomb, outside):
        with pytest.raises(MetalinkError, match="declares a document type"):
            parse_metalink(text.encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(MetalinkError):
        parse_metalink(data)


@given(st.integers(0, len(UNIPROT) - 1), st.binary(min_size=1, max_size=3))
def test_any_damage_is_read_or_refused(place: int, damage: bytes) -> None:
    with contextlib.suppress(MetalinkError):
        parse_metalink(UNIPROT[:place] + damage + UNIPROT[place + len(damage) :])
