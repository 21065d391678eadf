"""A stop is no failure: the job comes back by itself, and the result is that of a quiet run."""

import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests import test_cluster_guide as guide
from tests.slurm.cluster import (
    PROFILES,
    ROOT,
    Cluster,
    Workflow,
    change,
    changed_profile,
    environment,
    wait_for,
)
from tests.slurm.conftest import MODEL

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


@pytest.mark.slow
def test_a_killed_process_a_scancel_and_ctrl_c(
    two_nodes: Cluster, reference: Workflow, prepared: Callable[[], Path]
) -> None:
    """The first puts the job back into the queue; the others keep it out of there.

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

    snakemake = workflow.start()
    workflow.wait_for_update(120, attempt=3)
    status, text = workflow.run()  # a second one beside it
    assert (status, "locked" in text) == (1, True)
    (controller,) = two_nodes.controllers()
    controller.send_signal(signal.SIGINT)
    assert snakemake.wait(timeout=60) != 0
    wait_for(lambda: not two_nodes.live_jobs(), seconds=60)
    assert len(workflow.attempts("stopped")) == 2

    status, text = workflow.run()
    assert status == 0, text
    assert workflow.weights() == reference.weights()
    updates = [line["update"] for line in workflow.attempts("started")]
    assert updates[:2] == [0, 100]
    assert updates[3] >= 120
    assert updates[3] > updates[2] > 110


@pytest.mark.slow
def test_the_time_limit_twice(
    two_nodes: Cluster, reference: Workflow, prepared: Callable[[], Path], tmp_path: Path
) -> None:
    profile = changed_profile(
        "slurm-cpu",
        tmp_path / "profile",
        runtime='"2m"',
        slurm_extra='"--signal=USR1@45 --open-mode=append"',
    )
    workflow = Workflow(prepared(), profile, two_nodes, MODEL)
    snakemake = workflow.start()
    for attempt in (1, 2):
        workflow.wait_for_update(50 * attempt, attempt=attempt)
        # a fast machine would be done before the limit; SLURM wakes them when it signals
        for trainer in two_nodes.trainers("n1") + two_nodes.trainers("n2"):
            trainer.suspend()
        wait_for(partial(has_stopped, workflow, attempt), seconds=100)
    assert snakemake.wait(timeout=300) == 0
    assert "Error" not in (workflow.directory / "snakemake.log").read_text()
    ((job, state),) = two_nodes.jobs().items()
    assert (state, two_nodes.restarts(job)) == ("COMPLETED", 2)
    assert workflow.weights() == reference.weights()


def has_stopped(workflow: Workflow, times: int) -> bool:
    return len(workflow.attempts("stopped")) == times


def test_a_dead_snakemakes_job_is_named_and_nothing_touched(
    two_nodes: Cluster, reference: Workflow, prepared: Callable[[], Path]
) -> None:
    workflow = Workflow(prepared(), PROFILES / "slurm-cpu", two_nodes, MODEL)
    snakemake = workflow.start()
    workflow.wait_for_update(10)
    for process in two_nodes.controllers():
        process.kill()
    snakemake.wait()
    (job,) = two_nodes.live_jobs()
    log = workflow.directory / "logs/small/pretrain.log"
    told = f"SLURM job {job} (running) "

    status, text = workflow.run()
    assert status == 1  # Snakemake's own lock
    assert "locked" in text
    script = str(ROOT / "workflow" / "unlock.py")
    unlock = subprocess.run(
        workflow.command_there(sys.executable, script),
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert unlock.returncode == 2
    assert unlock.stderr.startswith(told)
    assert workflow.run("--unlock")[0] == 0
    status, text = workflow.run()
    assert status == 2
    assert f"esm1b: error: {told}" in text
    assert list(two_nodes.jobs()) == [job]
    assert log.exists()

    wait_for(lambda: two_nodes.jobs()[job] == "COMPLETED", seconds=200)
    assert log.exists()
    status, text = workflow.run()
    assert (status, "Nothing to be done" in text) == (0, True)
    assert workflow.weights() == reference.weights()
