import hashlib
import time
from dataclasses import replace
from pathlib import Path

import pytest

from esm1b.download.mirrors import FileChangedError, MirroredFile, MissingFileError, Patience
from esm1b.errors import DownloadError
from tests.download.published_releases import (
    CURRENT,
    CURRENT_METALINK,
    FASTA,
    KIB_64,
    QUICK,
    UNAVAILABLE,
    WRONG,
    XML,
    check_nothing,
    check_whole,
    fetch,
)
from tests.download.server import Fault, ReleaseServer, dead_url, metalink

IMPATIENT = replace(QUICK, silence_seconds=0.2)


def test_cut_at_every_64_kib(server: ReleaseServer, tmp_path: Path) -> None:
    server.faults[CURRENT] = [Fault(cut_after=KIB_64)]
    check_whole(tmp_path, fetch(tmp_path, server))
    starts = range(0, len(FASTA), KIB_64)
    assert server.ranges(CURRENT) == [None, *(f"bytes={start}-" for start in starts[1:])]
    assert server.bytes_sent(CURRENT) == len(FASTA)


def test_goes_on_after_a_failure(server: ReleaseServer, tmp_path: Path) -> None:
    server.faults[CURRENT] = [Fault(cut_after=100_000), UNAVAILABLE]
    with pytest.raises(DownloadError, match=r"503 Service Unavailable; 100kB are kept"):
        fetch(tmp_path, server)
    assert (tmp_path / "uniref50.fasta.gz.partial").read_bytes() == FASTA[:100_000]
    assert not (tmp_path / "uniref50.fasta.gz").exists()
    server.faults.clear()
    del server.requests[:]
    check_whole(tmp_path, fetch(tmp_path, server))
    assert server.ranges(CURRENT) == ["bytes=100000-"]
    assert server.bytes_sent(CURRENT) == len(FASTA) - 100_000


def test_goes_on_with_another_mirror(
    server: ReleaseServer, second: ReleaseServer, tmp_path: Path
) -> None:
    server.faults[CURRENT] = [Fault(cut_after=100_000), UNAVAILABLE]
    second.etags[CURRENT] = '"another server has other tags"'
    lock = fetch(tmp_path, server, second)
    check_whole(tmp_path, lock)
    assert lock["url"] == second.url + CURRENT
    assert second.ranges(CURRENT) == ["bytes=100000-"]
    assert server.bytes_sent(CURRENT) + second.bytes_sent(CURRENT) == len(FASTA)


def test_goes_on_with_another_mirror_in_another_process(
    server: ReleaseServer, second: ReleaseServer, tmp_path: Path
) -> None:
    server.faults[CURRENT] = [Fault(cut_after=100_000), UNAVAILABLE]
    with pytest.raises(DownloadError):
        fetch(tmp_path, server)
    check_whole(tmp_path, fetch(tmp_path, dead_url(), second))
    assert second.bytes_sent(CURRENT) == len(FASTA) - 100_000


def test_a_dead_first_mirror(server: ReleaseServer, tmp_path: Path) -> None:
    check_whole(tmp_path, fetch(tmp_path, dead_url(), server))
    assert server.bytes_sent(CURRENT) == len(FASTA)


@pytest.mark.usefixtures("no_proxy")
def test_only_dead_mirrors(tmp_path: Path) -> None:
    urls = [dead_url(), "http://no.such.host.invalid"]
    with pytest.raises(DownloadError) as caught:
        fetch(tmp_path, *urls)
    first, other = str(caught.value).split("; ")
    assert first == f"UniRef50 current: {urls[0]}{CURRENT_METALINK}: Connection refused"
    assert other.startswith(f"{urls[1]}{CURRENT_METALINK}: ")
    check_nothing(tmp_path)


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_a_first_mirror_that_refuses(
    status: int, server: ReleaseServer, second: ReleaseServer, tmp_path: Path
) -> None:
    server.faults[CURRENT] = [Fault(status=status)]
    check_whole(tmp_path, fetch(tmp_path, server, second))
    assert second.bytes_sent(CURRENT) == len(FASTA)


def test_all_mirrors_without_the_file(
    server: ReleaseServer, second: ReleaseServer, tmp_path: Path
) -> None:
    for mirror in (server, second):
        del mirror.files[CURRENT]
    with pytest.raises(DownloadError) as caught:
        fetch(tmp_path, server, second)
    assert str(caught.value) == (
        f"UniRef50 2026_03: uniref50.fasta.gz: {server.url}{CURRENT}: 404 Not Found; "
        f"{second.url}{CURRENT}: 404 Not Found"
    )
    assert len(server.ranges(CURRENT)) == 1  # what is not there will not come


def test_unavailable_for_a_while(
    server: ReleaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    busy = Fault(status=503, headers={"Retry-After": "7"})
    server.faults[CURRENT] = [busy, Fault(status=429), Fault()]
    patience = Patience(first_wait=1.0, longest_wait=5.0)
    check_whole(tmp_path, fetch(tmp_path, server, patience=patience))
    assert slept[0] == 5.0  # what the server asks for, but not for ever
    assert 1.0 <= slept[1] <= 2.0


def test_waits_double_and_are_scattered() -> None:
    patience = Patience(first_wait=2.0, longest_wait=60.0)
    waits = {rounds: {patience.wait(rounds) for _ in range(50)} for rounds in (1, 2, 3, 9)}
    assert all(len(values) > 40 for values in waits.values())
    for rounds, most in ((1, 2), (2, 4), (3, 8), (9, 60)):
        assert most / 2 <= min(waits[rounds])
        assert max(waits[rounds]) <= most


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect(
    status: int, server: ReleaseServer, second: ReleaseServer, tmp_path: Path
) -> None:
    server.faults[CURRENT] = [Fault(status=status, headers={"Location": second.url + CURRENT})]
    second.faults[CURRENT] = [Fault(cut_after=KIB_64)]
    check_whole(tmp_path, fetch(tmp_path, server))
    assert second.bytes_sent(CURRENT) == len(FASTA)


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_a_redirect_to_another_protocol(
    target: str, server: ReleaseServer, second: ReleaseServer, tmp_path: Path
) -> None:
    server.faults[CURRENT] = [Fault(status=302, headers={"Location": target})]
    with pytest.raises(DownloadError, match=f"redirected to {target}; expected HTTPS"):
        fetch(tmp_path, server)
    check_whole(tmp_path, fetch(tmp_path, server, second))


def test_a_redirect_without_end(server: ReleaseServer, tmp_path: Path) -> None:
    server.faults[CURRENT] = [Fault(status=302, headers={"Location": CURRENT})]
    with pytest.raises(DownloadError, match="Exceeded 5 redirects"):
        fetch(tmp_path, server)


def test_a_file_of_another_length(server: ReleaseServer, tmp_path: Path) -> None:
    server.files[CURRENT] = FASTA + b"more"
    expected = f"its file has {len(FASTA) + 4} bytes; expected {len(FASTA)}"
    with pytest.raises(DownloadError, match=expected):
        fetch(tmp_path, server)
    check_nothing(tmp_path)
    assert len(server.ranges(CURRENT)) == 1


def test_a_mirror_that_lags_behind(
    server: ReleaseServer, second: ReleaseServer, tmp_path: Path
) -> None:
    second.files[CURRENT] = XML
    second.files[CURRENT_METALINK] = metalink("2026_02", {"uniref50.fasta.gz": XML})
    server.faults[CURRENT] = [Fault(cut_after=100_000), UNAVAILABLE, Fault()]
    lock = fetch(tmp_path, server, second)
    check_whole(tmp_path, lock)
    assert lock["release"] == "2026_03"


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_that_is_too_long(
    is_chunked: bool, server: ReleaseServer, second: ReleaseServer, tmp_path: Path
) -> None:
    server.faults[CURRENT] = [Fault(extra=b"more", is_chunked=is_chunked)]
    check_whole(tmp_path, fetch(tmp_path, server, second))


def test_a_body_that_is_always_too_short(server: ReleaseServer, tmp_path: Path) -> None:
    server.faults[CURRENT] = [Fault(cut_after=100_000), Fault(cut_after=0)]
    with pytest.raises(DownloadError, match="the connection broke; 100kB are kept"):
        fetch(tmp_path, server)
    assert len(server.ranges(CURRENT)) == 1 + QUICK.rounds


def test_a_body_of_unknown_length(server: ReleaseServer, tmp_path: Path) -> None:
    server.faults[CURRENT] = [Fault(is_chunked=True, cut_after=100_000), Fault(is_chunked=True)]
    check_whole(tmp_path, fetch(tmp_path, server))
    assert server.bytes_sent(CURRENT) == len(FASTA)


def test_a_wrong_digest(server: ReleaseServer, tmp_path: Path) -> None:
    server.files[CURRENT] = WRONG
    with pytest.raises(DownloadError) as caught:
        fetch(tmp_path, server)
    found, expected = hashlib.md5(WRONG).hexdigest(), hashlib.md5(FASTA).hexdigest()
    problem = f"{server.url}{CURRENT}: md5 {found}; expected {expected}"
    assert str(caught.value) == (
        f"UniRef50 2026_03: {problem}; {problem}; failed verification twice, deleted"
    )
    check_nothing(tmp_path)
    assert server.ranges(CURRENT) == [None, None]


def test_a_wrong_digest_on_the_first_mirror(
    server: ReleaseServer, second: ReleaseServer, tmp_path: Path
) -> None:
    server.files[CURRENT] = WRONG
    lock = fetch(tmp_path, server, second)
    check_whole(tmp_path, lock)
    assert lock["url"] == second.url + CURRENT
    assert server.bytes_sent(CURRENT) == second.bytes_sent(CURRENT) == len(FASTA)


def test_halves_of_different_files(
    server: ReleaseServer, second: ReleaseServer, tmp_path: Path
) -> None:
    server.faults[CURRENT] = [Fault(body=WRONG, cut_after=100_000), UNAVAILABLE]
    check_whole(tmp_path, fetch(tmp_path, server, second))
    assert second.ranges(CURRENT) == ["bytes=100000-", None]


def test_a_server_without_ranges(server: ReleaseServer, tmp_path: Path) -> None:
    server.faults[CURRENT] = [Fault(cut_after=100_000), Fault(ignores_range=True)]
    check_whole(tmp_path, fetch(tmp_path, server))
    assert server.ranges(CURRENT) == [None, "bytes=100000-"]


def test_a_server_without_ranges_that_always_cuts(server: ReleaseServer, tmp_path: Path) -> None:
    server.faults[CURRENT] = [Fault(cut_after=100_000, ignores_range=True)]
    with pytest.raises(DownloadError, match="the connection broke; 100kB are kept"):
        fetch(tmp_path, server)


@pytest.mark.parametrize("text", ["bytes 0-99/100", "bytes 5-9/x", "", "items 100000-1/2"])
def test_a_wrong_content_range(
    text: str, server: ReleaseServer, second: ReleaseServer, tmp_path: Path
) -> None:
    server.faults[CURRENT] = [
        Fault(cut_after=100_000),
        Fault(headers={"Content-Range": text}),
    ]
    with pytest.raises(DownloadError, match="expected from byte 100000 on; 100kB are kept"):
        fetch(tmp_path, server)
    check_whole(tmp_path, fetch(tmp_path, server, second))


def test_a_file_that_changes_between_two_commands(server: ReleaseServer, tmp_path: Path) -> None:
    server.etags[CURRENT] = '"old"'
    server.faults[CURRENT] = [Fault(body=WRONG, cut_after=100_000), UNAVAILABLE]
    with pytest.raises(DownloadError):
        fetch(tmp_path, server)
    server.faults.clear()
    server.etags[CURRENT] = '"new"'
    del server.requests[:]
    check_whole(tmp_path, fetch(tmp_path, server))
    assert server.ranges(CURRENT) == ["bytes=100000-", None]
    assert server.requests[1].headers["If-Range"] == '"old"'


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": 'W/"weak"'},
        {"ETag": '"new"'},
        {"ETag": None, "Last-Modified": "Sat, 15 Jul 2017 02:40:00 GMT"},
    ],
)
def test_a_file_that_changes_without_minding_the_condition(
    headers: dict[str, str | None], server: ReleaseServer, tmp_path: Path
) -> None:
    before = {**headers, "ETag": headers["ETag"] and '"old"', "Last-Modified": None}
    if headers["ETag"] is None:
        before["Last-Modified"] = "Fri, 14 Jul 2017 02:40:00 GMT"
    server.faults[CURRENT] = [
        Fault(body=WRONG, cut_after=100_000, headers=before),
        Fault(headers=headers),
    ]
    check_whole(tmp_path, fetch(tmp_path, server))
    assert server.ranges(CURRENT) == [None, "bytes=100000-", None]


def test_a_release_that_changes_between_two_commands(server: ReleaseServer, tmp_path: Path) -> None:
    server.faults[CURRENT] = [Fault(cut_after=100_000), UNAVAILABLE]
    with pytest.raises(DownloadError):
        fetch(tmp_path, server)
    server.faults.clear()
    server.files[CURRENT] = WRONG
    server.files[CURRENT_METALINK] = metalink("2026_04", {"uniref50.fasta.gz": WRONG})
    lock = fetch(tmp_path, server)
    assert (tmp_path / "uniref50.fasta.gz").read_bytes() == WRONG
    assert lock["release"] == "2026_04"
    assert server.ranges(CURRENT)[-1] is None


def test_a_file_that_is_another_one_at_every_request(server: ReleaseServer, tmp_path: Path) -> None:
    server.faults[CURRENT] = [
        Fault(cut_after=100_000, headers={"ETag": f'"{number}"'}) for number in range(50)
    ]
    with pytest.raises(DownloadError, match="the server returns a different file on each request"):
        fetch(tmp_path, server)
    assert len(server.ranges(CURRENT)) < 20


@pytest.mark.parametrize("account", [None, "", "[]", "{}", '{"identity": 1}'])
def test_bytes_of_unknown_origin_are_not_trusted(
    account: str | None, server: ReleaseServer, tmp_path: Path
) -> None:
    (tmp_path / "uniref50.fasta.gz.partial").write_bytes(WRONG[:1000])
    if account is not None:
        (tmp_path / "uniref50.fasta.gz.partial.json").write_text(account)
    check_whole(tmp_path, fetch(tmp_path, server))
    assert server.ranges(CURRENT) == [None]


def test_a_complete_partial_file_is_only_verified(server: ReleaseServer, tmp_path: Path) -> None:
    server.faults[CURRENT] = [Fault(cut_after=len(FASTA) - 1), UNAVAILABLE]
    with pytest.raises(DownloadError):
        fetch(tmp_path, server)
    (tmp_path / "uniref50.fasta.gz.partial").write_bytes(FASTA)
    del server.requests[:]
    lock = fetch(tmp_path, server)
    check_whole(tmp_path, lock)
    assert lock["url"] == server.url + CURRENT
    assert server.ranges(CURRENT) == []


def test_a_stalled_connection(server: ReleaseServer, tmp_path: Path) -> None:
    server.faults[CURRENT] = [Fault(stall_after=100_000), Fault()]
    check_whole(tmp_path, fetch(tmp_path, server, patience=IMPATIENT))
    assert server.ranges(CURRENT)[:2] == [None, "bytes=100000-"]


def test_a_connection_that_stalls_always(
    server: ReleaseServer, second: ReleaseServer, tmp_path: Path
) -> None:
    server.faults[CURRENT] = [Fault(stall_after=0)]
    with pytest.raises(DownloadError, match="timed out"):
        fetch(tmp_path, server, patience=replace(IMPATIENT, rounds=2))
    check_whole(tmp_path, fetch(tmp_path, server, second, patience=IMPATIENT))


def test_a_connection_that_drips(
    server: ReleaseServer, second: ReleaseServer, tmp_path: Path
) -> None:
    server.faults[CURRENT] = [Fault(drip_seconds=0.02), UNAVAILABLE]
    begin = time.monotonic()
    lock = fetch(tmp_path, server, second, patience=IMPATIENT)
    assert time.monotonic() - begin < 5
    assert lock["url"] == second.url + CURRENT


def test_a_file_without_a_digest_is_not_pieced_together(
    server: ReleaseServer, second: ReleaseServer
) -> None:
    server.faults[CURRENT] = [Fault(cut_after=1000), UNAVAILABLE]
    file = MirroredFile("file", [server.url + CURRENT, second.url + CURRENT])
    pieces = file.read()
    with pytest.raises(FileChangedError):
        b"".join(pieces)
    assert b"".join(file.read()) == FASTA


def test_nobody_offers_it(server: ReleaseServer) -> None:
    file = MirroredFile("file", [server.url + "/none"])
    with pytest.raises(MissingFileError, match="/none: 404 Not Found"):
        next(file.read())


@pytest.mark.parametrize("ignores_range", [False, True])
def test_only_the_beginning_is_read(ignores_range: bool, server: ReleaseServer) -> None:
    server.faults[CURRENT] = [Fault(cut_after=300, ignores_range=ignores_range), Fault()]
    file = MirroredFile("file", [server.url + CURRENT])
    assert b"".join(file.read(0, 1000)) == FASTA[:1000]
    assert server.ranges(CURRENT) == ["bytes=0-999", "bytes=300-999"]
