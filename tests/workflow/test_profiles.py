"""Shipped profiles agree with the rules they are for."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

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
