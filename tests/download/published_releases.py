"""Two releases on a local server, and what a download of them leaves behind."""

import gzip
import hashlib
import json
import random
from pathlib import Path
from typing import Any
from unittest import mock

from esm1b.download import mirrors
from esm1b.download.download import download
from esm1b.download.mirrors import Patience
from tests.download.server import Fault, ReleaseServer, metalink

CURRENT = "/current_release/uniref/uniref50/uniref50.fasta.gz"
CURRENT_METALINK = "/current_release/uniref/uniref50/RELEASE.metalink"
ARCHIVE = "/previous_releases/release-2018_03/uniref/uniref2018_03.tar.gz"
ARCHIVE_METALINK = "/previous_releases/release-2018_03/uniref/RELEASE.metalink"
LIST = "/fair-esm/pretraining-data/uniref201803_ur50_valid_headers.txt.gz"

KIB_64 = 65536
QUICK = Patience(
    connection_seconds=5, silence_seconds=10, rounds=3, first_wait=0.001, longest_wait=0.002
)
UNAVAILABLE = Fault(status=503)


def fasta_records(count: int, length: int) -> list[bytes]:
    """Return records with sequences of equal letters in no order, so that they pack badly."""
    letters = bytes(b"ACDEFGHIKLMNPQRSTVWY"[value % 20] for value in range(256))
    draw = random.Random(1)
    return [
        b">UniRef50_A%d Protein n=1 Tax=Homo sapiens TaxID=9606 RepID=A%d_HUMAN\n%s\n"
        % (number, number, draw.randbytes(length).translate(letters))
        for number in range(count)
    ]


RECORDS = fasta_records(300, 2000)
FASTA = gzip.compress(b"".join(RECORDS), 1, mtime=0)
XML = random.Random(2).randbytes(200_000)  # of which the downloader reads nothing
WRONG = bytes(byte ^ 1 for byte in FASTA)
assert len(FASTA) > 5 * KIB_64


def publish(server: ReleaseServer) -> ReleaseServer:
    """Put the releases 2026_03, which is the current one, and 2018_03 on a server."""
    server.files = {
        CURRENT: FASTA,
        CURRENT_METALINK: metalink("2026_03", {"uniref50.fasta.gz": FASTA, "README": b"?"}),
        ARCHIVE: XML,
        ARCHIVE_METALINK: metalink("2018_03", {"uniref2018_03.tar.gz": XML}),
    }
    return server


def fetch(
    output: Path,
    *servers: ReleaseServer | str,
    release: str = "current",
    patience: Patience = QUICK,
    **options: Any,
) -> dict[str, Any]:
    urls = [server if isinstance(server, str) else server.url for server in servers]
    with mock.patch.object(mirrors, "PATIENCE", patience):
        return download(output, release=release, mirrors=urls, **options)


def check_whole(output: Path, lock: dict[str, Any]) -> None:
    """The release is there, verified and on record, and nothing else is."""
    assert (output / "uniref50.fasta.gz").read_bytes() == FASTA
    assert json.loads((output / "download.json").read_text()) == lock
    assert lock["digests"]["sha256"] == hashlib.sha256(FASTA).hexdigest()
    assert sorted(path.name for path in output.iterdir()) == [
        "download.json",
        "uniref50.fasta.gz",
    ]


def check_nothing(output: Path) -> None:
    assert list(output.iterdir()) == []
