"""The SLURM script of docs/pretraining.md, with smaller numbers, through what happens to a job."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, Workflow, wait_for
from tests.slurm.events import EVENTS, happen
from tests.slurm.runs import Script

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


def test_a_run_through_events_ends_as_a_quiet_one(
    two_nodes: Cluster, reference: Workflow, prepared: Callable[[], Path]
) -> None:
    """All but those that need a spare node, one after the other in one run."""
    run = Script(prepared(), two_nodes, reference)
    job, attempt = run.submit(), 1
    for name, event in EVENTS.items():
        if event.needs_spare or event.of_snakemake:
            continue
        assert run.wait_to_train(attempt, job, updates=10), name
        attempt = happen(name, run, job, random.Random(1))
        if two_nodes.jobs()[job] == "CANCELLED":
            job = run.submit()
    wait_for(lambda: two_nodes.jobs()[job] == "COMPLETED", seconds=300)
    assert run.weights() == reference.weights()
    assert all(run.end_of(number) for number in range(1, attempt + 1))


def test_a_run_that_fails_for_good_ends_with_78(
    two_nodes: Cluster, reference: Workflow, prepared: Callable[[], Path]
) -> None:
    wrong = {"learning_rate": 1e18, "warmup_updates": 1}
    run = Script(prepared(), two_nodes, reference, **wrong)
    job = run.submit()
    wait_for(lambda: two_nodes.jobs()[job] == "FAILED", seconds=200)
    assert "ExitCode=78:0" in two_nodes.answer("scontrol", "show", "job", job)
    assert two_nodes.restarts(job) == 2
    assert [run.end_of(number)[:7] for number in (1, 2)] == ["failed:", "failed:"]
    assert len(run.attempts("started")) == 2
    assert "stopped for good: 2 attempts from update 0 failed" in run.log(job)
