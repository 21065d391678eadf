"""Nodes and links that go away: the run finishes as if nothing had happened."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.cluster import Workflow, changed_profile, cluster, wait_for
from tests.slurm.conftest import AUDIT, MODEL

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(1200)]


def profile(folder: Path, *, seconds: int = 25) -> Path:
    """Return a profile with which nobody waits long for a node that is gone."""
    return changed_profile("slurm-cpu", folder / "profile", options=f'"--hang-limit {seconds}s"')


def test_a_node_goes_off_and_a_spare_one_takes_its_place(
    reference: Workflow, prepared: Callable[[], Path], tmp_path: Path
) -> None:
    with cluster(tmp_path / "cluster", nodes=3, SLURMDTIMEOUT=30) as running:
        workflow = Workflow(prepared(), profile(tmp_path), running, MODEL)
        snakemake = workflow.start()
        workflow.wait_for_update(110)
        running.power_off("n2")
        workflow.wait_for_update(110, attempt=2, seconds=400)
        ((job, _),) = running.live_jobs().items()
        assert running.answer("squeue", "--noheader", "--format=%N") == "n[1,3]"
        assert running.restarts(job) == 1
        assert re.match(r"lost: rank [23] on n2 gave no sign of life", workflow.end_of(1))
        assert snakemake.wait(timeout=300) == 0
    assert workflow.weights() == reference.weights()
    assert [line["update"] for line in workflow.attempts("started")] == [0, 100]


def test_a_link_is_cut_for_20_seconds_and_then_for_good(
    reference: Workflow, prepared: Callable[[], Path], tmp_path: Path
) -> None:
    # TCP doubles its waits, so after 20 seconds it may take as long again to notice the link
    with cluster(tmp_path / "cluster", nodes=3, SLURMDTIMEOUT=60) as running:
        workflow = Workflow(prepared(), profile(tmp_path, seconds=60), running, MODEL)
        snakemake = workflow.start()
        workflow.wait_for_update(50)
        running.cut("n2")
        time.sleep(20)
        running.mend("n2")
        workflow.wait_for_update(150)
        assert len(workflow.attempts("started")) == 1
        running.cut("n2")
        began = time.monotonic()
        wait_for(lambda: not running.trainers("n1"), seconds=90)
        workflow.wait_for_update(150, attempt=2, seconds=400)
        # the allocation ends within two minutes of the trainers, then the job starts again
        assert time.monotonic() - began < 90 + 120 + 60
        assert snakemake.wait(timeout=300) == 0
    assert workflow.weights() == reference.weights()


def test_the_batch_host_goes_off_and_one_node_is_left(
    reference: Workflow,
    prepared: Callable[[], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The job waits for two nodes; its user asks for one instead."""
    with cluster(tmp_path / "cluster", SLURMDTIMEOUT=30) as running:
        workflow = Workflow(prepared(), profile(tmp_path), running, AUDIT)
        snakemake = workflow.start()
        workflow.wait_for_update(110)
        running.power_off("n1")
        wait_for(lambda: [*running.live_jobs().values()] == ["PENDING"], seconds=300)
        (job,) = running.live_jobs()
        running.answer("scancel", job)
        assert snakemake.wait(timeout=300) == 1
        monkeypatch.setenv("ESM1B_NODES", "1")
        status, text = workflow.run()
        assert status == 0, text
    first, second = workflow.attempts("started")
    assert (first["layout"]["processes"], first["nodes"]) == (4, ["n1", "n2"])
    assert (second["layout"]["processes"], second["nodes"]) == (2, ["n2"])
    assert second["update"] == 100
    assert workflow.end_of(1).startswith("lost: rank 0 on n1 gave no sign of life")
    assert (workflow.directory / AUDIT).read_bytes() == (reference.directory / AUDIT).read_bytes()
