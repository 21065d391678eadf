"""What each cluster profile hands to sbatch for every rule, and that it plans the real run."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "workflow" / "profiles"
pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]

# Records its command line without the job itself, then makes the outputs of the rule.
SBATCH = """
import json, os, re, shlex, sys
from pathlib import Path

words = [word for word in sys.argv[1:] if not word.startswith("--wrap=") and word[-3:] != ".sh"]
with open(os.environ["RECORD"], "a+") as file:
    print(shlex.join(words), file=file)
    file.seek(0)
    print(len(file.readlines()))
rule = re.search(r"rule_(\\w+?)_wildcards", " ".join(words)).group(1)
for path in map(Path, json.loads(os.environ["OUTPUTS"])[rule]):
    (path.parent if path.suffix else path).mkdir(parents=True, exist_ok=True)
    path.touch()
"""
SQUEUE = """
import os, sys
from pathlib import Path

record = Path(os.environ["RECORD"])
count = len(record.read_text().splitlines()) if record.exists() else 0
if "--format=%T" in sys.argv:
    print("COMPLETED")
elif "--me" not in sys.argv:
    print("".join(f"{number}|COMPLETED\\n" for number in range(1, count + 1)))
"""
# for rules that every profile leaves as they are
SMALL = {
    "synthesize": "-t 10 --mem 2000 --requeue --ntasks=1 --cpus-per-task=1",
    "audit": "-t 30 --mem 4000 --requeue --ntasks=1 --cpus-per-task=1",
    "report": "-t 10 --mem 2000 --requeue --ntasks=1 --cpus-per-task=1",
}
USUAL = SMALL | {
    "shard": "-t 1440 --mem 4000 --requeue --ntasks=1 --cpus-per-task=8",
    "tokenize": "-t 120 --mem 8000 --requeue --ntasks=1 --cpus-per-task=8",
    "evaluate_perplexity": "-t 240 --mem 16000 --requeue --ntasks=1 --cpus-per-task=4",
    "evaluate_contacts": "-t 240 --mem 32000 --requeue --ntasks=1 --cpus-per-task=4",
    "evaluate_secondary_structure": "-t 240 --mem 32000 --requeue --ntasks=1 --cpus-per-task=4",
    "evaluate_variants": "-t 720 --mem 32000 --requeue --ntasks=1 --cpus-per-task=4",
    "release": "-t 30 --mem 16000 --requeue --ntasks=1 --cpus-per-task=1",
}
SIGNAL = "--signal=USR1@600 --open-mode=append"
EXPECTED = {
    "slurm": USUAL
    | {
        "pretrain": "-t 1440 --mem 128000 --nodes=2 --requeue --ntasks-per-node=8 "
        f"--cpus-per-task=8 {SIGNAL} --gres=gpu:8"
    },
    "slurm-1gpu": USUAL
    | {
        "pretrain": "-t 1440 --mem 32000 --nodes=1 --requeue --cpus-per-task=8 "
        f"{SIGNAL} --gres=gpu:1"
    },
    "slurm-cpu": SMALL
    | {
        "shard": "-t 1440 --mem 4000 --requeue --ntasks=1 --cpus-per-task=1",
        "tokenize": "-t 120 --mem 8000 --requeue --ntasks=1 --cpus-per-task=1",
        "evaluate_perplexity": "-t 240 --mem 4000 --requeue --ntasks=1 --cpus-per-task=1",
        "evaluate_contacts": "-t 240 --mem 4000 --requeue --ntasks=1 --cpus-per-task=1",
        "evaluate_secondary_structure": "-t 240 --mem 4000 --requeue --ntasks=1 --cpus-per-task=1",
        "evaluate_variants": "-t 720 --mem 4000 --requeue --ntasks=1 --cpus-per-task=1",
        "release": "-t 30 --mem 4000 --requeue --ntasks=1 --cpus-per-task=1",
        "pretrain": "-t 60 --mem 4000 --nodes=2 --requeue --ntasks-per-node=2 "
        "--cpus-per-task=1 --signal=USR1@120 --open-mode=append",
    },
}
GENERIC = {
    "evaluate_contacts": "--time=240 --mem=32000 --nodes=1 --ntasks-per-node=1 --cpus-per-task=4 "
    "--requeue --open-mode=append",
    "pretrain": "--time=1440 --mem=128000 --nodes=2 --ntasks-per-node=8 --cpus-per-task=8 "
    "--requeue --open-mode=append --gres=gpu:8 --signal=USR1@600",
}


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a cluster whose commands only write down what they are asked."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "bin").mkdir()
    programs = {"sbatch": SBATCH, "squeue": SQUEUE, "sinfo": "print('debug*')"}
    programs["scontrol"] = "print('MinJobAge = 300 sec')"  # without one the plugin asks sacct
    for name in ("sacct", "sacctmgr", "sshare", "scancel"):
        programs[name] = "raise SystemExit(1)"
    for name, text in programs.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!{sys.executable}\n{text}\n")
        program.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "RECORD": str(tmp_path / "record")}
    summary = snakemake(tmp_path, environment, "default", "--summary", "--cores=1")
    outputs = defaultdict(list)
    for row in summary.splitlines()[1:]:
        output, _, rule, *_ = row.split("\t")
        outputs[rule].append(output)
    return environment | {"OUTPUTS": json.dumps(outputs)}


def snakemake(directory: Path, environment: dict[str, str], profile: str, *options: str) -> str:
    """Return the standard output."""
    result = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow/Snakefile")),
            *("--workflow-profile", str(PROFILES / profile), *options),
        ],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def submitted(directory: Path, environment: dict[str, str]) -> dict[str, str]:
    """Return the options for sbatch by rule, without what every job of a profile has."""
    found = {}
    for line in (directory / "record").read_text().splitlines():
        (rule,) = re.findall(r"--comment[ =]rule_(\w+?)_wildcards_(?:\S+=)?demonstration", line)
        for option in ("--comment[ =]", "--job-name[ =]", "--output[ =]", "-D ", "-p "):
            line = re.sub(rf"{option}\S+ ?", "", line)
        found[rule] = re.sub("--parsable |--export=ALL ", "", line).strip()
    return found


@pytest.mark.parametrize("profile", EXPECTED)
def test_the_slurm_executor(tmp_path: Path, cluster: dict[str, str], profile: str) -> None:
    options = ("--slurm-init-seconds-before-status-checks=1", "--latency-wait=1")
    snakemake(tmp_path, cluster, profile, *options)
    assert submitted(tmp_path, cluster) == EXPECTED[profile]


def test_cluster_generic(tmp_path: Path, cluster: dict[str, str]) -> None:
    pytest.importorskip("snakemake_executor_plugin_cluster_generic")
    options = ("--seconds-between-status-checks=1", "--latency-wait=1")
    snakemake(tmp_path, cluster, "cluster-generic", *options)
    found = submitted(tmp_path, cluster)
    assert found.keys() == EXPECTED["slurm"].keys()
    assert {rule: found[rule] for rule in GENERIC} == GENERIC


def test_one_number_of_nodes(tmp_path: Path, cluster: dict[str, str]) -> None:
    options = ("--slurm-init-seconds-before-status-checks=1", "--latency-wait=1", "--force")
    target = "results/demonstration/model/model.safetensors"
    numbers = {"ESM1B_NODES": "5", "ESM1B_GPUS": "4"}
    snakemake(tmp_path, cluster | numbers, "slurm", target, *options)
    assert submitted(tmp_path, cluster)["pretrain"] == (
        "-t 1440 --mem 64000 --nodes=5 --requeue --ntasks-per-node=4 --cpus-per-task=8 "
        f"{SIGNAL} --gres=gpu:4"
    )


@pytest.mark.parametrize("profile", EXPECTED)
def test_the_real_run_is_planned(tmp_path: Path, cluster: dict[str, str], profile: str) -> None:
    (tmp_path / "resources" / "structures").mkdir(parents=True)
    (tmp_path / "resources" / "secondary_structure.csv.gz").touch()
    options = ("--configfile", str(ROOT / "config" / "esm1b.yaml"), "--dry-run")
    planned = snakemake(tmp_path, cluster, profile, *options)
    table = planned.split("Job stats:")[1].split("total")[0]
    jobs = {line.split()[0] for line in table.splitlines()[3:] if line.split()}
    assert jobs >= {"download", "download_validation_list", "pretrain", "evaluate_contacts"}
    assert len(jobs - {"all"}) == 12
