"""A stop is no failure: the job comes back by itself, and the result is that of a quiet run."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import test_cluster_guide as guide
from tests.slurm.cluster import Cluster, Workflow, change, changed_profile, environment
from tests.slurm.conftest import MODEL

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

LONGER = "pretraining={updates: 1200}"


def test_a_killed_process_then_a_users_scancel(
    two_nodes: Cluster, reference: Workflow, prepared: Callable[[], Path]
) -> None:
    """The first puts the job back into the queue; the second keeps it out of there.

    With the profile that the guide's script writes, for CPUs.
    """
    directory = prepared()
    words = guide.profile_command("--nodes 2 --gpus 2 --account proj --partition debug")
    made = subprocess.run(words, cwd=directory, env=environment(), capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    cpu = {"device": "cpu", "micro_batch_tokens": "4096", "threads_per_process": "1"}
    workflow = Workflow(directory, change(directory / "profile", **cpu), two_nodes, MODEL)
    snakemake = workflow.start()
    workflow.wait_for_update(110)
    victim = two_nodes.trainers("n2")[-1]
    victim.kill()
    workflow.wait_for_update(110, attempt=2)
    ((job, state),) = two_nodes.live_jobs().items()
    assert (state, two_nodes.restarts(job)) == ("RUNNING", 1)
    assert snakemake.poll() is None
    assert "Error" not in (workflow.directory / "snakemake.log").read_text()

    assert two_nodes.run("scancel", job).returncode == 0
    assert snakemake.wait(timeout=300) == 1
    assert two_nodes.jobs() == {job: "CANCELLED"}
    assert len(workflow.attempts("stopped")) == 1

    status, text = workflow.run()
    assert status == 0, text
    assert workflow.weights() == reference.weights()
    updates = [line["update"] for line in workflow.attempts("started")]
    assert updates[0] == 0
    assert updates[1] == 100
    assert updates[2] > 110


def test_the_time_limit_twice(
    two_nodes: Cluster, prepared: Callable[[], Path], tmp_path: Path, longer: bytes
) -> None:
    profile = changed_profile(
        "slurm-cpu",
        tmp_path / "profile",
        runtime='"2m"',
        slurm_extra='"--signal=USR1@60 --open-mode=append"',
    )
    workflow = Workflow(prepared(), profile, two_nodes, MODEL)
    status, text = workflow.run("--config", LONGER, seconds=800)
    assert status == 0, text
    assert "Error" not in text
    ((job, state),) = two_nodes.jobs().items()
    assert state == "COMPLETED"
    assert two_nodes.restarts(job) >= 2
    assert len(workflow.attempts("stopped")) == two_nodes.restarts(job)
    assert workflow.weights() == longer


@pytest.fixture
def longer(reference: Workflow, tmp_path: Path) -> bytes:
    """Return the weights of the same run with three times the updates, on one machine."""
    directory = tmp_path / "longer"
    shutil.copytree(reference.directory, directory)
    workflow = Workflow(directory, directory / "profile.yaml", None, MODEL)
    status, text = workflow.run("--cores", "2", "--config", LONGER)
    assert status == 0, text
    return workflow.weights()
