"""Where the sequences come from, as Snakemake plans it: dry runs only."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RELEASE = {"name": "uniref", "release": "2025_03"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a working directory with the default configuration and data to evaluate on."""
    (tmp_path / "config").mkdir()
    shutil.copy(ROOT / "config" / "config.yaml", tmp_path / "config")
    (tmp_path / "resources" / "structures").mkdir(parents=True)
    (tmp_path / "resources" / "secondary_structure.csv.gz").touch()
    return tmp_path


def dry_run(directory: Path, configuration: Path, *options: str) -> str:
    result = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--dry-run", "--printshellcmds", "--cores", "2"),
            *("--snakefile", str(ROOT / "workflow" / "Snakefile")),
            *("--configfile", str(configuration), *options),
        ],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def dry_run_with(directory: Path, corpus: dict[str, Any], *options: str) -> str:
    path = directory / "run.yaml"
    path.write_text(yaml.safe_dump({"corpus": corpus}))
    return dry_run(directory, path, *options)


def jobs(output: str) -> set[str]:
    if "Nothing to be done" in output:
        return set()
    table = output.split("Job stats:")[1].split("total")[0]
    return {line.split()[0] for line in table.splitlines()[3:] if line.split()} - {"all"}


def command(output: str, name: str) -> str:
    """Return the shell line of `esm1b NAME`."""
    (line,) = [line for line in output.splitlines() if f"esm1b {name} " in line]
    return " ".join(line.split("esm1b ", 1)[1].split(" > ")[0].split())


EVERY_JOB = {
    "download",
    "shard",
    "tokenize",
    "run_config",
    "pretrain",
    "evaluate_perplexity",
    "evaluate_contacts",
    "evaluate_secondary_structure",
    "release",
    "audit",
    "report",
}


@pytest.mark.parametrize(
    ("preset", "release", "others"),
    [
        ("esm1b", "2018_03", {"download_validation_list"}),
        ("esm2", "2021_04", set()),
        ("one-gpu-day", "2025_03", set()),
        ("one-gpu-hour", "2025_03", set()),
    ],
)
def test_presets_plan_the_jobs_of_a_real_run(
    directory: Path, preset: str, release: str, others: set[str]
) -> None:
    output = dry_run(directory, ROOT / "config" / f"{preset}.yaml")
    assert jobs(output) == EVERY_JOB | others
    folder = f"resources/uniref/{release}"
    assert command(output, "download --release") == (
        f"download --release {release} --output $(dirname {folder}/download.json)"
    )
    assert f" --source {folder}/download.json " in command(output, "shard")
    has_list = "--validation-ids resources/uniref/esm1b_validation_list/uniref201803_ur50_valid"
    assert (has_list in command(output, "shard")) is bool(others)


def test_presets_of_one_corpus_name_make_the_same_corpus() -> None:
    day, hour = (
        yaml.safe_load((ROOT / "config" / f"one-gpu-{name}.yaml").read_text())["corpus"]
        for name in ("day", "hour")
    )
    assert day == hour


def test_every_setting_of_the_corpus_becomes_an_option(directory: Path) -> None:
    for name in ("mine.fasta", "homologs.fasta", "ids.txt"):
        (directory / name).touch()
    corpus = {
        "name": "mine",
        "sequences": ["mine.fasta"],
        "sample": 0.25,
        "exclude": "homologs.fasta",
        "minimum_length": 30,
        "maximum_length": 2000,
        "strict": True,
        "shards": 3,
        "validation_ids": "ids.txt",
        "allow_partial_list": True,
    }
    output = dry_run_with(directory, corpus)
    assert "download" not in jobs(output)
    assert command(output, "shard") == (
        "shard mine.fasta --output $(dirname results/corpora/mine/corpus/manifest.json) "
        "--validation-ids ids.txt --allow-partial-list --exclude homologs.fasta --sample 0.25 "
        "--minimum-length 30 --maximum-length 2000 --strict --shards 3 --workers 2"
    )


def test_the_beginning_of_a_release_is_kept_apart(directory: Path) -> None:
    mirrors = ["https://a.org/uniprot", "http://localhost:8000/it's"]
    output = dry_run_with(directory, {**RELEASE, "limit": "10MB", "mirrors": mirrors})
    assert command(output, "download") == (
        "download --release 2025_03 "
        "--output $(dirname resources/uniref/2025_03-first-10MB/download.json) --limit 10MB "
        """--mirror https://a.org/uniprot --mirror 'http://localhost:8000/it'"'"'s'"""
    )


def downloaded(directory: Path, file: str) -> Path:
    """Pretend that the release was downloaded by an earlier run."""
    lock = directory / "resources/uniref/2025_03/download.json"
    lock.parent.mkdir(parents=True)
    lock.write_text(json.dumps({"file": file}))
    return lock


def test_the_lock_names_the_file_of_a_release(directory: Path) -> None:
    downloaded(directory, "uniref2025_03.tar.gz")
    output = dry_run_with(directory, RELEASE)
    assert "download" not in jobs(output)
    assert command(output, "shard").startswith(
        "shard resources/uniref/2025_03/uniref2025_03.tar.gz --output "
    )


def test_the_synthetic_families_need_no_network(directory: Path) -> None:
    output = dry_run_with(directory, {}, "--config", "seed=0")
    assert command(output, "synthesize").endswith(" --seed 0")
    planned = jobs(output)
    assert "synthesize" in planned
    assert planned.isdisjoint({"download", "download_validation_list"})
