"""Shipped profiles agree with the rules they are for."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yte
from torch.distributed.run import get_args_parser

ROOT = Path(__file__).parents[2]
PROFILES = sorted((ROOT / "workflow" / "profiles").glob("*/profile.yaml"))
LOCAL = [path for path in PROFILES if path.parent.name in ("default", "local-gpu")]
CLUSTER = [path for path in PROFILES if path not in LOCAL]


def load(path: Path) -> dict[str, Any]:
    with path.open(encoding="utf-8") as file:
        content = yte.process_yaml(file, require_use_yte=True)
    assert isinstance(content, dict)
    return content


def pretrain(path: Path) -> dict[str, Any]:
    resources = load(path)["set-resources"]["pretrain"]
    assert isinstance(resources, dict)
    return resources


def dry_run(directory: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--dry-run", "--printshellcmds", "--cores", "8"),
            *("--snakefile", str(ROOT / "workflow" / "Snakefile")),
            *("--configfile", str(ROOT / "config" / "config.yaml"), *options),
        ],
        cwd=directory,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def launched(result: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the words of the command that trains."""
    assert result.returncode == 0, result.stdout + result.stderr
    output = result.stdout + result.stderr
    (line,) = [line for line in output.splitlines() if "esm1b pretrain " in line]
    return line.split("Shell command: ")[1].split()


def test_the_profiles_are_these() -> None:
    assert {path.parent.name for path in PROFILES} == {
        *("default", "local-gpu", "slurm", "slurm-1gpu", "slurm-cpu", "cluster-generic")
    }


@pytest.mark.parametrize("path", LOCAL, ids=lambda path: path.parent.name)
def test_the_launcher_starts_a_program_and_passes_signals_on(path: Path) -> None:
    words = shlex.split(pretrain(path)["launcher"])
    assert words[0] == "torchrun"
    assert "--no-python" in words
    assert "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1" in words
    assert "--shutdown-timeout=600" in words
    arguments = get_args_parser().parse_args([*words[1:], "esm1b", "pretrain"])
    assert arguments.training_script == "esm1b"
    assert arguments.shutdown_timeout == 600


def test_gpus_need_no_number(tmp_path: Path) -> None:
    """One process for each GPU that is there, with as much at a time as its memory holds."""
    profile = str(ROOT / "workflow" / "profiles" / "local-gpu")
    words = launched(dry_run(tmp_path, "--workflow-profile", profile))
    assert words[:3] == ["torchrun", "--standalone", "--nproc-per-node=gpu"]
    options = words[words.index("pretrain") :]
    for option, value in {
        "--micro-batch-tokens": "auto",
        "--zero-stage": "1",
        "--threads": "4",
        "--device": "cuda",
        "--attention": "auto",
    }.items():
        assert options[options.index(option) + 1] == value


def test_one_number_of_nodes_decides(tmp_path: Path) -> None:
    profile = str(ROOT / "workflow" / "profiles" / "slurm")
    result = dry_run(tmp_path, "--workflow-profile", profile, ESM1B_NODES="4", ESM1B_GPUS="6")
    script = str(ROOT / "workflow" / "launch.sh")
    assert launched(result)[:10] == [
        *("sh", script, "checkpoints/demonstration", "srun", "--nodes=4"),
        *("--ntasks-per-node=6", "--cpus-per-task=8", "--gres=gpu:6"),
        *("--kill-on-bad-exit=0", "--wait=60"),
    ]


@pytest.mark.slow
def test_an_earlier_profile_has_its_launcher_in_mpi(tmp_path: Path) -> None:
    setting = "pretrain:mpi='srun --nodes=2'"
    words = launched(dry_run(tmp_path, "--workflow-profile", "none", "--set-resources", setting))
    assert words[:3] == ["srun", "--nodes=2", "esm1b"]


@pytest.mark.slow
def test_a_launcher_that_names_no_resource(tmp_path: Path) -> None:
    setting = "pretrain:launcher='srun -N {nods}'"
    result = dry_run(tmp_path, "--workflow-profile", "none", "--set-resources", setting)
    assert result.returncode == 1
    assert "launcher of pretrain: 'srun -N {nods}': 'nods'; expected in braces one of " in (
        result.stdout + result.stderr
    )


def test_the_slurm_executor_without_its_profile_ends_before_the_first_job(tmp_path: Path) -> None:
    """With the default profile it would fail after all data stages."""
    result = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--executor", "slurm", "--jobs", "1"),
            *("--snakefile", str(ROOT / "workflow" / "Snakefile")),
            *("--configfile", str(ROOT / "config" / "config.yaml")),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if "esm1b: error" in line]
    assert "expected --workflow-profile slurm, slurm-1gpu, slurm-cpu or a copy" in line
    assert not (tmp_path / "results").exists()
    assert not list(tmp_path.glob(".snakemake/locks/*"))


def test_the_default_processes_use_the_threads_they_reserve() -> None:
    path = ROOT / "workflow" / "profiles" / "default" / "profile.yaml"
    resources = pretrain(path)
    processes = int(resources["launcher"].split("--nproc-per-node=")[1].split()[0])
    threads = load(path)["set-threads"]["pretrain"]
    assert processes * resources["threads_per_process"] == threads == 2


@pytest.mark.parametrize("path", CLUSTER, ids=lambda path: path.parent.name)
def test_a_cluster_profile_leaves_the_job_to_the_launcher(path: Path) -> None:
    content = load(path)
    resources = pretrain(path)
    assert resources["launcher"].startswith("{requeue} srun --nodes=")
    assert "--signal=USR1@" in resources.get("slurm_extra", resources.get("submit", ""))
    assert content["retries"] == 0  # or a job that somebody cancelled would be submitted again
    # the key switches the plugin's own srun off; with one task it may have no value
    if content["executor"] == "slurm":
        assert bool(resources["mpi"]) is (resources.get("tasks_per_node", 1) > 1)
        assert "default-resources" not in content  # a site's profile has them


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.parent.name)
def test_profiles_hold_no_science(path: Path) -> None:
    assert "config" not in load(path)
    assert set(pretrain(path)) <= {
        *("launcher", "mpi", "nodes", "tasks_per_node", "gres", "runtime", "slurm_extra", "submit"),
        "micro_batch_tokens",
        "zero_stage",
        "threads_per_process",
        "device",
        "attention",
        "options",
        "mem_mb",
    }
