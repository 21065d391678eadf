"""Shipped profiles agree with the rules they are for."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

ROOT = Path(__file__).parents[2]
PROFILES = sorted((ROOT / "workflow" / "profiles").glob("*/profile.yaml"))


def load(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def test_there_is_a_default_profile() -> None:
    assert ROOT / "workflow" / "profiles" / "default" / "profile.yaml" in PROFILES


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.parent.name)
def test_the_launcher_starts_a_program_and_passes_signals_on(path: Path) -> None:
    words = shlex.split(load(path)["set-resources"]["pretrain"]["mpi"])
    assert words[0] == "torchrun"
    assert "--no-python" in words
    assert "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1" in words
    assert "--shutdown-timeout=600" in words
    arguments = get_args_parser().parse_args([*words[1:], "esm1b", "pretrain"])
    assert arguments.training_script == "esm1b"
    assert arguments.shutdown_timeout == 600


def test_gpus_need_no_number(tmp_path: Path) -> None:
    """One process for each GPU that is there, with as much at a time as its memory holds."""
    result = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--dry-run", "--printshellcmds", "--cores", "1"),
            *("--snakefile", str(ROOT / "workflow" / "Snakefile")),
            *("--configfile", str(ROOT / "config" / "config.yaml")),
            *("--workflow-profile", str(ROOT / "workflow" / "profiles" / "local-gpu")),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    output = result.stdout + result.stderr
    (line,) = [line for line in output.splitlines() if "esm1b pretrain " in line]
    words = line.split("Shell command: ")[1].split()
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


def test_the_default_processes_use_the_threads_they_reserve() -> None:
    profile = load(ROOT / "workflow" / "profiles" / "default" / "profile.yaml")
    resources = profile["set-resources"]["pretrain"]
    processes = int(resources["mpi"].split("--nproc-per-node=")[1].split()[0])
    assert processes * resources["threads_per_process"] == profile["set-threads"]["pretrain"] == 2


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.parent.name)
def test_profiles_hold_no_science(path: Path) -> None:
    assert "config" not in load(path)
    assert set(load(path)["set-resources"]["pretrain"]) <= {
        "mpi",
        "micro_batch_tokens",
        "zero_stage",
        "threads_per_process",
        "device",
        "attention",
        "options",
        "mem_mb",
    }
