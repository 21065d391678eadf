"""One process with a save of several seconds: nothing between SLURM and it dies of the signal."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests.slurm.cluster import Cluster, Workflow, changed_profile, wait_for
from tests.slurm.conftest import MODEL

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(1200)]

# 136 M parameters: a checkpoint has 1.6 GB
LARGE = {
    "model": {"layers": 18, "width": 768, "heads": 12, "feed_forward": 3328},
    "pretraining": {
        "updates": 100_000,
        "tokens_per_update": 128,
        "crop_residues": 100,
        "log_interval": 1,
        "validation_interval": 100_000,
        "checkpoint_interval": 100_000,
        "checkpoints_kept": 2,
    },
}


def test_each_signal_leaves_a_checkpoint_and_the_job_comes_back(
    two_nodes: Cluster, prepared: Callable[[], Path], tmp_path: Path
) -> None:
    profile = changed_profile(
        "slurm-1gpu",
        tmp_path / "profile",
        device="cpu",
        micro_batch_tokens="128",
        threads_per_process="1",
    )
    directory = prepared()
    config = directory / "small.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | LARGE))
    workflow = Workflow(directory, profile, two_nodes, MODEL)
    snakemake = workflow.start()

    def stopped(times: int) -> bool:
        return len(workflow.attempts("stopped")) == times

    def requeued(times: int) -> bool:
        return two_nodes.restarts(job) == times

    workflow.wait_for_update(1)
    (job,) = two_nodes.live_jobs()
    signals = [
        ("scancel", "--signal=USR1", f"{job}.0"),
        ("scancel", "--signal=TERM", job),
        ("scontrol", "update", f"job={job}", "TimeLimit=1"),  # within the ten minutes of USR1@600
    ]
    for times, words in enumerate(signals, 1):
        workflow.wait_for_update(times, attempt=times)
        two_nodes.answer(*words)
        wait_for(partial(stopped, times), seconds=120)
        wait_for(partial(requeued, times), seconds=60)
    assert snakemake.poll() is None
    assert "Error" not in (directory / "snakemake.log").read_text()
    assert two_nodes.run("scancel", job).returncode == 0
    assert snakemake.wait(timeout=300) == 1
    updates = [line["update"] for line in workflow.attempts("started")]
    assert updates == sorted(set(updates))
