"""What is evaluated again when the user's data change, as Snakemake plans it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
KINDS = ("contacts", "secondary_structure", "variants")
# Writes the outputs of any evaluation, and nothing else.
STAND_IN = """#!/bin/sh
while [ "$1" != --output ]; do shift; done
for name in metrics.json contact_regression.json proteins.parquet contact_maps.parquet \\
    variants.parquet; do
    echo > "$2/$name"
done
"""


def snakemake(directory: Path, *options: str) -> str:
    targets = [f"results/demonstration/evaluation/{kind}/metrics.json" for kind in KINDS]
    result = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--cores", "1", *options, "--configfile"),
            *("run.yaml", "--snakefile", str(ROOT / "workflow" / "Snakefile"), "--", *targets),
        ],
        cwd=directory,
        env={**os.environ, "PATH": f"{directory}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def planned(directory: Path) -> set[str]:
    output = snakemake(directory, "--dry-run")
    return {kind for kind in KINDS if f"\nevaluate_{kind} " in output}


def rewrite(path: Path, text: str) -> None:
    """Replace a file by another one of the same date, as `cp -p` and archives do."""
    times = path.stat()
    path.write_text(text)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model, data of the user, and evaluations that a stand-in has made."""
    directory = tmp_path_factory.mktemp("evaluated")
    for folder in ("config", "results/demonstration/model", "-st 1/deeper/.git", "gym"):
        (directory / folder).mkdir(parents=True)
    shutil.copy(ROOT / "config" / "config.yaml", directory / "config")
    settings = {
        "contacts": {"structures": "-st 1"},
        "secondary_structure": {"table": "labels{1}.csv"},
        "variants": {"data": "gym", "reference": "all.csv", "compare": ["a b"], "epistasis": 0},
    }
    (directory / "run.yaml").write_text(yaml.safe_dump({"evaluation": settings}))
    (directory / "esm1b").write_text(STAND_IN)
    (directory / "esm1b").chmod(0o755)
    names = ("results/demonstration/model/model.safetensors", "labels{1}.csv", "all.csv", "gym/a")
    for name in names:
        (directory / name).write_text("first")
    for name in ("1abc.pdb", "chains.csv", "deeper/{2}.pdb"):
        (directory / "-st 1" / name).write_text("first")
    output = snakemake(directory, "--printshellcmds")
    assert "contacts $(dirname results/demonstration/model/model.safetensors) './-st 1'" in output
    assert (
        "variants $(dirname results/demonstration/model/model.safetensors) gym --reference all.csv "
        "--output $(dirname results/demonstration/evaluation/variants/metrics.json) --offset 1 "
        "--compare 'a b' --convention masked-marginals --window optimal --epistasis 0 --untrained 3"
    ) in output
    return directory


def test_unchanged_data_are_not_evaluated_again(evaluated: Path) -> None:
    (evaluated / "-st 1" / ".DS_Store").write_text("")
    (evaluated / "-st 1" / "deeper" / ".git" / "index").write_text("")
    assert planned(evaluated) == set()


def test_content_counts_at_any_depth_whatever_the_name_and_the_date(evaluated: Path) -> None:
    (evaluated / "-st 1" / "deeper" / "2xyz.cif.gz").write_text("new")
    rewrite(evaluated / "labels{1}.csv", "other")
    assert planned(evaluated) == {"contacts", "secondary_structure"}
    rewrite(evaluated / "gym" / "a", "other")
    assert planned(evaluated) == set(KINDS)
