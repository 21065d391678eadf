"""Paths and names as users write them in a configuration."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.workflow.test_workflow import prepare, snakemake

SEQUENCE = "MKTVRQGLASERTIDPKQNFYMHWC"
ODD = """
run: 2024-01-15
corpus:
  name: odd
  sequences: ["set{1}.fasta", -dash.fasta, "a <b>{x, y}.fasta"]
  validation_ids: "-held{corpus}.txt"
  exclude: "out{}.txt"
evaluation:
  contacts: {structures: "-st{run}"}
  secondary_structure: {table: "t {x}.csv"}
  variants: {data: "-v{y}.csv", wild_type: "w t.fasta", score_column: "{z}"}
"""


def fasta(first: int) -> str:
    ids = range(first, first + 9)
    return "".join(f">p{n}\n{SEQUENCE[n % 9 :]}{SEQUENCE[: n % 7]}\n" for n in ids)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    directory = prepare(tmp_path / "run")
    (directory / "-st{run}").mkdir()
    files = {
        **{"set{1}.fasta": fasta(0), "-dash.fasta": fasta(9), "a <b>{x, y}.fasta": fasta(18)},
        **{"-held{corpus}.txt": "p1\np2\n", "out{}.txt": "p3\n", "odd.yaml": ODD},
        **{"-st{run}/a.pdb": "", "t {x}.csv": "", "-v{y}.csv": "", "w t.fasta": ""},
    }
    for name, text in files.items():
        (directory / name).write_text(text)
    return directory


def planned(directory: Path) -> str:
    result = snakemake(directory, "--configfile", "odd.yaml", "--dry-run", "--printshellcmds")
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_odd_paths_are_taken_as_they_are(directory: Path) -> None:
    output = planned(directory)
    for command in (
        "shard 'set{1}.fasta' ./-dash.fasta 'a <b>{x, y}.fasta' --output $(dirname "
        "results/corpora/odd/corpus/manifest.json) --validation-ids './-held{corpus}.txt' "
        "--exclude 'out{}.txt' --shards 4",
        "contacts $(dirname results/2024-01-15/model/model.safetensors) './-st{run}' --output",
        "secondary-structure $(dirname results/2024-01-15/model/model.safetensors) 't {x}.csv'",
        "variants $(dirname results/2024-01-15/model/model.safetensors) './-v{y}.csv' --wild-type "
        "'w t.fasta'",
        "--score-column '{z}'",
    ):
        assert f"{command} " in output


@pytest.mark.slow
def test_files_with_odd_paths_are_read_and_their_changes_noticed(directory: Path) -> None:
    manifest = directory / "results/corpora/odd/corpus/manifest.json"
    target = str(manifest.relative_to(directory))
    result = snakemake(directory, "--configfile", "odd.yaml", "--quiet", "all", "--", target)
    log = directory / "logs/corpora/odd/shard.log"
    assert result.returncode == 0, result.stderr + (log.read_text() if log.exists() else "")
    found = json.loads(manifest.read_text())
    assert found["counts"]["read"] == 27
    assert (found["split"]["found"], found["selection"]["excluded"]["found"]) == (2, 1)
    assert "esm1b shard" not in planned(directory)
    (directory / "set{1}.fasta").write_text(fasta(27))
    assert "esm1b shard" in planned(directory)


def test_a_key_given_twice_is_refused_by_the_workflow(directory: Path) -> None:
    (directory / "twice.yaml").write_text("model: {layers: 6}\nmodel: {maximum_tokens: 512}\n")
    result = snakemake(directory, "--configfile", "twice.yaml", "--dry-run")
    assert result.returncode == 2
    message = "twice.yaml: model: given twice, on lines 1 and 2; expected once"
    assert result.stderr.splitlines()[-1] == f"esm1b: error: {directory}/{message}"
