"""Paths and names as users write them in a configuration; one real job and few dry runs."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml

from tests.workflow.test_workflow import prepare, snakemake

SEQUENCE = "MKTVRQGLASERTIDPKQNFYMHWC"


def fasta(first: int) -> str:
    return "".join(
        f">p{n}\n{SEQUENCE[n % 9 :]}{SEQUENCE[: n % 7]}\n" for n in range(first, first + 9)
    )


def test_odd_paths_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    directory = prepare(tmp_path / "run")
    files = {"set{1}.fasta": fasta(0), "-dash.fasta": fasta(9), "a <b>{x, y}.fasta": fasta(18)}
    files |= {"-held{corpus}.txt": "p1\np2\n", "out{}.txt": "p3\n", "-st{run}/a.pdb": ""}
    for name, text in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    corpus = {
        "name": "odd",
        "sequences": list(files)[:3],
        "validation_ids": "-held{corpus}.txt",
        "exclude": "out{}.txt",
    }
    evaluation = {"contacts": {"structures": "-st{run}"}}
    content = {"run": "2024-01-15", "corpus": corpus, "evaluation": evaluation}
    (directory / "odd.yaml").write_text(
        yaml.safe_dump(content).replace("'2024-01-15'", "2024-01-15")
    )
    manifest = "results/corpora/odd/corpus/manifest.json"
    result = snakemake(directory, "--configfile", "odd.yaml", "--quiet", "all", "--", manifest)
    log = directory / "logs/corpora/odd/shard.log"
    assert result.returncode == 0, result.stderr + (log.read_text() if log.exists() else "")
    found = json.loads((directory / manifest).read_text())
    assert found["counts"]["read"] == 27
    assert (found["split"]["found"], found["selection"]["excluded"]["found"]) == (2, 1)
    (directory / "set{1}.fasta").write_text(fasta(27))
    result = snakemake(directory, "--configfile", "odd.yaml", "--dry-run", "--printshellcmds")
    assert result.returncode == 0, result.stderr
    output = result.stdout + result.stderr
    assert "esm1b shard './set{1}.fasta'" not in output
    assert "esm1b shard 'set{1}.fasta' ./-dash.fasta 'a <b>{x, y}.fasta' --output " in output
    assert (
        "esm1b evaluate contacts $(dirname results/2024-01-15/model/model.safetensors) './-st"
        in output
    )


def test_a_key_given_twice_is_refused_by_the_workflow(tmp_path: Path) -> None:
    directory = prepare(tmp_path / "run")
    (directory / "twice.yaml").write_text("model: {layers: 6}\nmodel: {maximum_tokens: 512}\n")
    result = snakemake(directory, "--configfile", "twice.yaml", "--dry-run")
    assert result.returncode == 2
    message = "twice.yaml: model: given twice, on lines 1 and 2; expected once"
    assert result.stderr.splitlines()[-1] == f"esm1b: error: {directory}/{message}"
