import gzip
import hashlib
import logging
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esm1b.cli import main
from esm1b.download import download as download_module
from esm1b.download.download import download
from esm1b.download.mirrors import Patience
from esm1b.errors import DownloadError, Stopped, UserError
from tests.download.published_releases import (
    ARCHIVE,
    ARCHIVE_METALINK,
    CURRENT,
    CURRENT_METALINK,
    FASTA,
    LIST,
    UNAVAILABLE,
    WRONG,
    XML,
    check_nothing,
    check_whole,
    fetch,
)
from tests.download.server import Fault, ReleaseServer, dead_url, metalink


def test_the_current_release(server: ReleaseServer, tmp_path: Path) -> None:
    lock = fetch(tmp_path / "a" / "b", server)
    check_whole(tmp_path / "a" / "b", lock)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", lock.pop("time"))
    assert lock == {
        "format": "esm1b-download",
        "format_version": 1,
        "name": "UniRef50",
        "release": "2026_03",
        "limit": None,
        "sample": None,
        "file": "uniref50.fasta.gz",
        "url": server.url + CURRENT,
        "etag": f'"{hashlib.md5(FASTA).hexdigest()}"',
        "last_modified": "Fri, 14 Jul 2017 02:40:00 GMT",
        "size": len(FASTA),
        "digests": {
            "md5": hashlib.md5(FASTA).hexdigest(),
            "sha256": hashlib.sha256(FASTA).hexdigest(),
        },
        "verified_by": "RELEASE.metalink",
    }
    assert [request.path for request in server.requests] == [CURRENT_METALINK, CURRENT]
    assert server.requests[1].headers["Accept-Encoding"] == "identity"
    assert server.requests[1].headers["User-Agent"].startswith("esm1b/")


def test_nothing_is_fetched_twice(server: ReleaseServer, tmp_path: Path) -> None:
    lock = fetch(tmp_path, server)
    del server.requests[:]
    assert fetch(tmp_path, server) == lock
    assert [request.path for request in server.requests] == [CURRENT_METALINK]
    assert fetch(tmp_path, dead_url(), release="2026_03") == lock  # nobody is asked
    check_whole(tmp_path, lock)


def test_a_lost_lock_is_written_again(server: ReleaseServer, tmp_path: Path) -> None:
    lock = fetch(tmp_path, server)
    (tmp_path / "download.json").unlink()
    again = fetch(tmp_path, server)
    check_whole(tmp_path, again)
    assert again["digests"] == lock["digests"]
    assert server.bytes_sent(CURRENT) == len(FASTA)


def test_the_current_release_by_its_number(server: ReleaseServer, tmp_path: Path) -> None:
    check_whole(tmp_path, fetch(tmp_path, server, release="2026_03"))


def test_an_earlier_release(server: ReleaseServer, tmp_path: Path) -> None:
    lock = fetch(tmp_path, server, release="2018_03")
    assert (tmp_path / "uniref2018_03.tar.gz").read_bytes() == XML
    assert (lock["release"], lock["file"]) == ("2018_03", "uniref2018_03.tar.gz")
    assert [request.path for request in server.requests] == [
        CURRENT_METALINK,
        ARCHIVE_METALINK,
        ARCHIVE,
    ]


@pytest.mark.parametrize("status", [404, 410])
def test_a_release_that_nobody_has(
    status: int, server: ReleaseServer, second: ReleaseServer, tmp_path: Path
) -> None:
    path = ARCHIVE_METALINK.replace("2018_03", "2019_12")
    server.faults[path] = [Fault(status=status)]
    with pytest.raises(UserError, match="release '2019_12': no mirror has it") as caught:
        fetch(tmp_path, server, second, release="2019_12")
    assert f"{server.url}{path}: {status}" in str(caught.value)
    assert f"{second.url}{path}: 404 Not Found" in str(caught.value)
    assert "\n" not in str(caught.value)
    check_nothing(tmp_path)


def test_a_damaged_file_is_fetched_again(server: ReleaseServer, tmp_path: Path) -> None:
    fetch(tmp_path, server)
    (tmp_path / "uniref50.fasta.gz").write_bytes(FASTA[:-1] + b"?")
    check_whole(tmp_path, fetch(tmp_path, server, release="2026_03"))


def test_another_release_in_the_directory(server: ReleaseServer, tmp_path: Path) -> None:
    fetch(tmp_path, server)
    server.files[CURRENT_METALINK] = metalink("2026_04", {"uniref50.fasta.gz": FASTA})
    others: list[dict[str, Any]] = [{}, {"release": "2018_03"}]
    for options in (*others, {"release": "2026_03", "limit": "5records"}):
        with pytest.raises(UserError, match="holds UniRef50 2026_03; expected another directory"):
            fetch(tmp_path, server, **options)
    assert (tmp_path / "uniref50.fasta.gz").read_bytes() == FASTA


def test_a_file_of_somebody_else(server: ReleaseServer, tmp_path: Path) -> None:
    (tmp_path / "uniref50.fasta.gz").write_bytes(b"mine")
    with pytest.raises(UserError, match="not UniRef50 2026_03: 4 bytes; expected"):
        fetch(tmp_path, server)
    assert (tmp_path / "uniref50.fasta.gz").read_bytes() == b"mine"


def test_a_lock_of_another_program(server: ReleaseServer, tmp_path: Path) -> None:
    (tmp_path / "download.json").write_text("{}")
    with pytest.raises(UserError, match="not of this version of the program"):
        fetch(tmp_path, server)


IDS = b"".join(b"UniRef50_A%d\n" % number for number in range(1000))


def fetch_list(output: Path, server: ReleaseServer, **options: Any) -> dict[str, Any]:
    return download(output, validation_list=True, mirrors=[server.url], **options)


def test_the_validation_list(
    server: ReleaseServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.files[LIST] = gzip.compress(IDS)
    lock = fetch_list(tmp_path, server)
    path = tmp_path / "uniref201803_ur50_valid_headers.txt.gz"
    assert path.read_bytes() == server.files[LIST]
    assert lock["name"] == "ESM-1b validation list"
    assert (lock["release"], lock["ids"], lock["verified_by"]) == ("2018_03", 1000, None)
    assert lock["digests"]["sha256"] == hashlib.sha256(server.files[LIST]).hexdigest()
    assert "1000 ids; expected about 3016000" in caplog.text
    assert fetch_list(tmp_path, server) == lock
    assert server.bytes_sent(LIST) == len(server.files[LIST])
    caplog.clear()
    monkeypatch.setattr(download_module, "VALIDATION_LIST_IDS", 1005)
    fetch_list(tmp_path / "again", server)
    assert "expected about" not in caplog.text


def test_a_cut_validation_list(server: ReleaseServer, tmp_path: Path) -> None:
    server.files[LIST] = gzip.compress(IDS)
    server.faults[LIST] = [Fault(cut_after=500)]
    assert fetch_list(tmp_path, server)["ids"] == 1000
    assert server.bytes_sent(LIST) == len(server.files[LIST])


@pytest.mark.parametrize("content", [gzip.compress(IDS)[:-9], b"<html>not here</html>"])
def test_a_damaged_validation_list(content: bytes, server: ReleaseServer, tmp_path: Path) -> None:
    server.files[LIST] = content
    with pytest.raises(
        DownloadError, match=r"^ESM-1b validation list 2018_03: .*failed verification twice"
    ):
        fetch_list(tmp_path, server)
    check_nothing(tmp_path)


def test_a_digest_of_the_validation_list(server: ReleaseServer, tmp_path: Path) -> None:
    server.files[LIST] = gzip.compress(IDS)
    with pytest.raises(DownloadError, match=f"expected {'0' * 64}; "):
        fetch_list(tmp_path, server, digest=f"sha256:{'0' * 64}")
    check_nothing(tmp_path)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["esm1b", "download", *map(str, arguments)])
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    try:
        with pytest.raises(SystemExit) as caught:
            main()
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]
    return int(caught.value.code or 0)


def test_the_command(
    server: ReleaseServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mirrors = ("--mirror", server.url + "/", "--output", tmp_path / "a")
    assert run(monkeypatch, "--release", "2026_03", *mirrors) == 0
    assert (tmp_path / "a" / "uniref50.fasta.gz").read_bytes() == FASTA
    server.files[LIST] = gzip.compress(IDS)
    arguments = ("--mirror", server.url, "--output", tmp_path / "list")
    assert run(monkeypatch, "--validation-list", *arguments) == 0
    assert (tmp_path / "list" / "download.json").exists()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--release", "2018-03"], 2, "release '2018-03': expected 'current', or year"),
        (["--release", "2019_12"], 2, "release '2019_12': no mirror has it"),
        (["--release", "current", "--limit", "some"], 2, "limit 'some': expected bytes"),
        (["--release", "current", "--sample", "2"], 2, "sample 2.0: expected a number"),
        (["--release", "current", "--mirror", "nowhere"], 2, "mirror 'nowhere': expected a URL"),
        ([], 2, "expected either --release or --validation-list"),
        (["--release", "current", "--validation-list"], 2, "expected either --release or"),
        (["--validation-list", "--sample", "0.1"], 2, "expected no --limit and no --sample"),
        (["--validation-list"], 1, "404 Not Found"),
    ],
)
def test_the_status_and_line_of_an_error(
    arguments: list[str],
    status: int,
    message: str,
    server: ReleaseServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mirror = ("--mirror", server.url, "--output", tmp_path)
    assert run(monkeypatch, *arguments, *mirror) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err.splitlines()[-1]
    assert line.startswith("esm1b: error: ")
    assert message in line
    assert "Traceback" not in captured.err


def test_stopping_the_command(
    server: ReleaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults[CURRENT] = [Fault(stall_after=100_000)]

    def stop() -> None:
        while not server.ranges(CURRENT):
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    arguments = ("--release", "current", "--mirror", server.url, "--output", tmp_path)
    assert run(monkeypatch, *arguments) == 75


def test_no_room(server: ReleaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, len(FASTA) - 1))
    with pytest.raises(UserError, match=r"kB free; expected .*kB for uniref50.fasta.gz"):
        fetch(tmp_path, server)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, len(FASTA) // 2))
    with pytest.raises(UserError, match=r"kB free; expected .*kB for UniRef50 2026_03"):
        fetch(tmp_path, server, sample=0.6)
    assert server.bytes_sent(CURRENT) == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, len(FASTA)))
    check_whole(tmp_path, fetch(tmp_path, server))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk(server: ReleaseServer, tmp_path: Path) -> None:
    server.faults[CURRENT] = [Fault(cut_after=100), UNAVAILABLE]
    with pytest.raises(DownloadError):
        fetch(tmp_path, server)
    server.faults.clear()
    partial = tmp_path / "uniref50.fasta.gz.partial"
    partial.unlink()
    partial.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"No space left on device.*; expected room for the whole"):
        fetch(tmp_path, server)


def test_proxies_come_from_the_environment(
    server: ReleaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    lock = fetch(tmp_path, "http://mirror.invalid")
    check_whole(tmp_path, lock)
    assert lock["url"] == f"http://mirror.invalid{CURRENT}"


def test_one_process_at_a_time(server: ReleaseServer, tmp_path: Path) -> None:
    server.faults[CURRENT] = [Fault(stall_after=1000)]
    patience = Patience(silence_seconds=5, first_wait=0.001)

    def wait_in_vain() -> None:
        with pytest.raises(DownloadError):
            fetch(tmp_path, server, patience=patience)

    thread = threading.Thread(target=wait_in_vain)
    thread.start()
    while not server.ranges(CURRENT):
        time.sleep(0.005)
    with pytest.raises(UserError, match="another process downloads to it"):
        fetch(tmp_path, server)
    server.faults[CURRENT] = [Fault(status=404)]
    server.is_closing.set()
    thread.join()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_keeps_what_has_come(number: int, server: ReleaseServer, tmp_path: Path) -> None:
    server.faults[CURRENT] = [Fault(stall_after=100_000)]
    partial = tmp_path / "uniref50.fasta.gz.partial"

    def stop() -> None:
        while not server.ranges(CURRENT) or not partial.exists():
            time.sleep(0.005)
        time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop).start()
    with pytest.raises(Stopped):
        fetch(tmp_path, server, patience=Patience(silence_seconds=10))
    assert partial.read_bytes() == FASTA[:100_000]
    server.faults.clear()
    check_whole(tmp_path, fetch(tmp_path, server))
    assert server.bytes_sent(CURRENT) == len(FASTA)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    faults=st.lists(
        st.sampled_from(
            [
                Fault(cut_after=0),
                Fault(cut_after=1),
                Fault(cut_after=50_000),
                Fault(cut_after=50_000, is_chunked=True),
                Fault(cut_after=50_000, ignores_range=True),
                Fault(cut_after=50_000, headers={"ETag": '"other"'}),
                Fault(cut_after=50_000, body=WRONG),
                Fault(ignores_range=True),
                UNAVAILABLE,
                Fault(status=404),
                Fault(),
            ]
        ),
        max_size=8,
    ),
    mirrors=st.integers(1, 2),
)
def test_the_verified_file_or_an_error(
    faults: list[Fault],
    mirrors: int,
    server: ReleaseServer,
    second: ReleaseServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    output = tmp_path_factory.mktemp("output")
    server.faults[CURRENT] = [*faults, Fault()]
    second.faults[CURRENT] = [*reversed(faults), Fault()]
    try:
        lock = fetch(output, *[server, second][:mirrors])
    except DownloadError:
        assert not (output / "uniref50.fasta.gz").exists()
        assert not (output / "download.json").exists()
    else:
        check_whole(output, lock)
