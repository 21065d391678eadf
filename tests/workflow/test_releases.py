"""A release from a server on this machine to tokens, by the rules that a real one takes."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.uniref_files import draw_clusters, release_archive, uniref_fasta, uniref_xml
from tests.download.published_releases import ARCHIVE, ARCHIVE_METALINK, CURRENT, CURRENT_METALINK
from tests.download.server import ReleaseServer, metalink, running_server

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleaseServer]:
    """A mirror with the same 60 clusters as FASTA, 2026_03, and in the archive of 2018_03."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    clusters = draw_clusters(60)
    fasta, archive = gzip.compress(uniref_fasta(clusters)), release_archive(uniref_xml(clusters))
    with running_server() as state:
        state.files = {
            CURRENT: fasta,
            CURRENT_METALINK: metalink("2026_03", {"uniref50.fasta.gz": fasta}),
            ARCHIVE: archive,
            ARCHIVE_METALINK: metalink("2018_03", {"uniref2018_03.tar.gz": archive}),
        }
        yield state


def snakemake(directory: Path, corpus: dict[str, Any], *options: str) -> str:
    """Make the tokens of a corpus and return what Snakemake says."""
    (directory / "config").mkdir(exist_ok=True)
    shutil.copy(ROOT / "config" / "config.yaml", directory / "config")
    (directory / "run.yaml").write_text(yaml.safe_dump({"corpus": corpus}))
    result = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake"),
            f"results/corpora/{corpus['name']}/tokens/manifest.json",
            *("--snakefile", str(ROOT / "workflow" / "Snakefile"), "--cores", "2"),
            *("--configfile", "run.yaml", *options),
        ],
        cwd=directory,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def manifest(directory: Path, name: str) -> dict[str, Any]:
    path = directory / "results" / "corpora" / name / "corpus" / "manifest.json"
    content = json.loads(path.read_text())
    assert isinstance(content, dict)
    return content


def test_both_shapes_of_a_release_become_the_same_corpus(
    server: ReleaseServer, tmp_path: Path
) -> None:
    common = {"mirrors": [server.url], "validation_fraction": 0.2, "shards": 2}
    current = {**common, "name": "current", "release": "current"}
    snakemake(tmp_path, current)
    snakemake(tmp_path, {**common, "name": "archive", "release": "2018_03"})
    fasta, xml = manifest(tmp_path, "current"), manifest(tmp_path, "archive")
    assert fasta["fingerprint"] == xml["fingerprint"]
    assert fasta["counts"] == xml["counts"]
    assert (fasta["source"]["release"], xml["source"]["release"]) == ("2026_03", "2018_03")
    lock = json.loads((tmp_path / "resources/uniref/current/download.json").read_text())
    assert lock["release"] == "2026_03"

    # neither another mirror nor a file that was deleted once it was sharded makes anything anew
    (tmp_path / "resources/uniref/current/uniref50.fasta.gz").unlink()
    again = {**current, "mirrors": ["https://mirror.invalid"]}
    assert "Nothing to be done" in snakemake(tmp_path, again, "--dry-run")
