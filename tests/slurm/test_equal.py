"""Through SLURM, on two nodes, the workflow makes what it makes on one machine."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from esm1b.config import load_config
from esm1b.pretraining.planning.memory import TrainingMemory
from esm1b.pretraining.planning.network import update_traffic
from tests.slurm.cluster import PROFILES, ROOT, Cluster, Workflow, changed_profile
from tests.slurm.conftest import AUDIT, LOCAL, MODEL

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_all_of_the_workflow(two_nodes: Cluster, reference: Workflow, tmp_path: Path) -> None:
    """Two nodes, two processes each, by the shipped profile and nothing else.

    What the link between them has carried is what `esm1b estimate` says.
    """
    directory = tmp_path / "run"
    (directory / "config").mkdir(parents=True)
    (directory / "config" / "config.yaml").write_text("{}\n")
    (directory / "small.yaml").write_bytes((reference.directory / "small.yaml").read_bytes())
    workflow = Workflow(directory, PROFILES / "slurm-cpu", two_nodes)
    status, text = workflow.run("--slurm-init-seconds-before-status-checks", "1")
    assert status == 0, text
    for part in ("results/corpora/small", "results/small/audit"):
        assert files(directory / part) == files(reference.directory / part)
    assert workflow.weights() == reference.weights()
    assert set(two_nodes.jobs().values()) == {"COMPLETED"}
    config = load_config(directory / "small.yaml")
    memory = TrainingMemory(shape=config.model.shape(), precision="fp32", processes=4)
    estimated = config.pretraining.updates * update_traffic(memory, 1, rounds=1).sent(4)
    for node in two_nodes.nodes:
        sent = two_nodes.sent_bytes(node)  # validation, saves and starts come on top
        print(f"{node} sent {sent / 1e6:.1f} MB, expected {estimated / 1e6:.1f}")
        assert sent == pytest.approx(estimated, rel=0.1)
    (started,) = workflow.attempts("started")
    assert (started["layout"]["processes"], started["host"]) == (4, "n1")
    (report,) = directory.glob("results/small/report/index.html")
    assert report.stat().st_size > 10_000


@pytest.mark.slow
def test_cluster_generic(
    two_nodes: Cluster, reference: Workflow, prepared: Callable[[], Path], tmp_path: Path
) -> None:
    """The same under any scheduler's commands, here SLURM's."""
    pytest.importorskip("snakemake_executor_plugin_cluster_generic")
    profile = changed_profile(
        "cluster-generic",
        tmp_path / "profile",
        tasks_per_node="2",
        mem_mb="4000",
        submit='"--signal=USR1@120"',
        device="cpu",
        micro_batch_tokens="4096",
        threads_per_process="1",
    )
    workflow = Workflow(prepared(), profile, two_nodes, MODEL)
    status, text = workflow.run("--set-threads", "pretrain=1")
    assert status == 0, text
    assert workflow.weights() == reference.weights()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demonstration_passes_its_control(two_nodes: Cluster, tmp_path: Path) -> None:
    for name in ("here", "run"):
        shutil.copytree(ROOT / "config", tmp_path / name / "config")
        (tmp_path / name / "small.yaml").write_text("run: small\n")
    profile = tmp_path / "here" / "profile.yaml"
    profile.write_text(LOCAL)
    here = Workflow(tmp_path / "here", profile, None, AUDIT)
    status, text = here.run("--cores", "2")
    assert status == 0, text
    workflow = Workflow(tmp_path / "run", PROFILES / "slurm-cpu", two_nodes)
    status, text = workflow.run(seconds=1200)
    assert status == 0, text
    assert "positive control: PASSED" in text
    for part in ("results/corpora/demonstration", "results/small/audit"):
        assert files(workflow.directory / part) == files(here.directory / part)
    assert workflow.weights() == here.weights()
