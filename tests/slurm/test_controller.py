"""A Snakemake that died: its job goes on, and a second one is refused before it submits one."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.cluster import PROFILES, ROOT, Cluster, Workflow, environment, wait_for
from tests.slurm.conftest import MODEL

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


def test_the_job_is_named_and_nothing_touched(
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
    unlock = subprocess.run(
        workflow.command_there(sys.executable, str(ROOT / "workflow" / "unlock.py")),
        cwd=workflow.directory,
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
    assert log.stat().st_size > 0

    wait_for(lambda: two_nodes.jobs()[job] == "COMPLETED", seconds=200)
    assert log.stat().st_size > 0
    status, text = workflow.run()
    assert (status, "Nothing to be done" in text) == (0, True)
    assert workflow.weights() == reference.weights()
