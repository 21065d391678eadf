"""The SLURM script of docs/pretraining.md, with smaller numbers and through a killed process."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.cluster import ROOT, Cluster, Workflow, environment, wait_for
from tests.test_pretraining_guide import SCRIPT

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(900)]
SMALLER = {
    "--ntasks-per-node=8": "--ntasks-per-node=2",
    "--gpus-per-node=8": "--gpus-per-node=2",
    "--cpus-per-task=8": "--cpus-per-task=1",
    "--mem=0": "--mem=4000",
    ". .venv/bin/activate\n": "",
    "pretrain run.yaml": "pretrain results/small/run_config.json --device cpu",
    "--tokens tokens": "--tokens results/corpora/small/tokens",
    "checkpoints/run": "checkpoints/small",
    "--output model": "--output results/small/model",
    "--micro-batch-tokens auto --threads 4": "--micro-batch-tokens 4096 --threads 1",
}


def test_it_goes_on_by_itself(
    two_nodes: Cluster, reference: Workflow, prepared: Callable[[], Path]
) -> None:
    directory = prepared()
    text = SCRIPT
    for given, smaller in SMALLER.items():
        assert given in text
        text = text.replace(given, smaller)
    (directory / "job.sh").write_text(text)
    (directory / "workflow").symlink_to(ROOT / "workflow")
    (directory / "results" / "small").mkdir()
    shutil.copy(reference.directory / "results/small/run_config.json", directory / "results/small")
    run = Workflow(directory, Path(), two_nodes)
    submit = run.command_there("sbatch", "--parsable", "job.sh")
    job = subprocess.check_output(submit, env=environment(), text=True).strip()
    run.wait_for_update(110)
    two_nodes.trainers("n2")[0].kill()
    wait_for(lambda: two_nodes.jobs()[job] == "COMPLETED", seconds=300)
    assert two_nodes.restarts(job) == 1
    assert [line["update"] for line in run.attempts("started")] == [0, 100]
    assert run.weights() == reference.weights()
