"""What the tests on a cluster share: a reason to skip them, and the same run on one machine."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.slurm.cluster import Cluster, Workflow, cluster

SMALL = {
    "run": "small",
    "corpus": {
        "name": "small",
        "shards": 2,
        "validation_fraction": 0.05,
        "synthetic": {"families": 6, "unseen_families": 2, "sequences": 200},
    },
    "pretraining": {
        "updates": 400,
        "validation_interval": 200,
        "validation_sequences": 32,
        "checkpoint_interval": 100,
    },
    "evaluation": {"untrained": 1, "perplexity": {"sequences": 20, "draws": 1}},
}
MODEL = "results/small/model/model.safetensors"
AUDIT = "results/small/audit/audit.json"
# four processes as on two nodes; torchrun waits for their save
LOCAL = """\
set-resources:
  pretrain:
    launcher: "torchrun --standalone --nproc-per-node=4 --shutdown-timeout=600 --no-python"
    micro_batch_tokens: 4096
    device: cpu
"""


def why_no_cluster() -> str | None:
    """Return why there can be no cluster here; None if there can."""
    needed = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "nsenter", "unshare")
    if missing := [program for program in needed if shutil.which(program) is None]:
        return f"not installed: {', '.join(missing)} (apt-get install slurm-wlm munge iproute2)"
    if os.geteuid() != 0:
        return "a cluster needs root for its namespaces"
    probe = ("unshare", "-mnupf", "ip", "link", "add", "br0", "type", "bridge")
    result = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"no namespaces or bridges here: {result.stderr}" if result.returncode else None


@pytest.fixture(scope="session")
def slurm() -> None:
    """Skip where there can be no cluster."""
    if reason := why_no_cluster():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def reference(slurm: None, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """Return the run on one machine, torchrun with four processes."""
    return run_here(tmp_path_factory.mktemp("reference"))


def run_here(directory: Path) -> Workflow:
    """Run the workflow, up to the audit, on this machine."""
    (directory / "profile.yaml").write_text(LOCAL)
    (directory / "small.yaml").write_text(yaml.safe_dump(SMALL))
    (directory / "config").mkdir()
    (directory / "config" / "config.yaml").write_text("{}\n")
    workflow = Workflow(directory, directory / "profile.yaml", None, AUDIT)
    status, text = workflow.run("--cores", "2")
    assert status == 0, text
    return workflow


@pytest.fixture
def two_nodes(slurm: None, tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path / "cluster") as running:
        yield running


@pytest.fixture
def prepared(reference: Workflow, tmp_path: Path) -> Callable[[], Path]:
    """Return what makes a directory with corpus and tokens, but without the training."""
    return lambda: prepare(reference, tmp_path / "run")


def prepare(reference: Workflow, target: Path) -> Path:
    """Copy corpus and tokens of a finished run, but not its training."""

    def training(directory: str, names: list[str]) -> list[str]:
        is_top = Path(directory) == reference.directory
        left_out = {"checkpoints", "logs", "profile.yaml"} if is_top else {"small", "locks"}
        under_corpora = Path(directory).name == "corpora"
        return [] if under_corpora else [name for name in names if name in left_out]

    return shutil.copytree(reference.directory, target, ignore=training)
