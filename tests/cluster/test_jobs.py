"""Jobs of the workflow in SLURM's queue, found by what squeue prints."""

from pathlib import Path

import pytest

from esm1b.cluster.jobs import find_jobs


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a workflow's directory, with a squeue that prints its file `queue`."""
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/asked\ncat {tmp_path}/queue\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:/usr/bin:/bin")
    return tmp_path


def found(directory: Path, queue: str, **options: object) -> list[str]:
    (directory / "queue").write_text(queue.format(here=directory))
    return [str(job) for job in find_jobs(directory, **options)]  # type: ignore[arg-type]


def test_a_job_that_snakemake_submitted_here(here: Path) -> None:
    queue = (
        "4711|PENDING|{here}|rule_pretrain_wildcards_small\n"
        "4712|RUNNING|{here}|rule_evaluate_contacts_wildcards_run=small\n"
        "4713|COMPLETING|{here}|rule_download\n"
        "4714|RUNNING|/elsewhere|rule_pretrain_wildcards_small\n"
        "4715|RUNNING|{here}|(null)\n"
    )
    assert found(here, queue) == [
        "SLURM job 4711 (pending) runs pretrain of small",
        "SLURM job 4712 (running) runs evaluate_contacts of small",
        "SLURM job 4713 (completing) runs download",
    ]
    assert (here / "asked").read_text() == "--me --noheader --format=%i|%T|%Z|%k\n"


def test_another_run_in_the_same_directory_does_not_matter(here: Path) -> None:
    queue = (
        "1|RUNNING|{here}|rule_pretrain_wildcards_other\n"
        "2|RUNNING|{here}|rule_shard_wildcards_corpus\n"
        "3|RUNNING|{here}|rule_download\n"
    )
    assert found(here, queue, names={"small", "corpus"}) == [
        "SLURM job 2 (running) runs shard of corpus",
        "SLURM job 3 (running) runs download",
    ]


def test_a_job_that_somebody_else_submitted_is_named_by_the_lock(here: Path) -> None:
    lock = here / "checkpoints" / "small" / "lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("SLURM job 4711, process 187 on n1\n")
    queue = "4711|RUNNING|/home/me|(null)\n4712|RUNNING|/home/me|(null)\n"
    expected = ["SLURM job 4711 (running) trains in checkpoints/small"]
    assert found(here, queue) == found(here, queue, names={"small"}) == expected
    assert found(here, queue, names={"other"}) == []
    assert found(here, queue, own="4711") == []
    lock.write_text("process 187 on n1\n")
    assert found(here, queue) == []


def test_without_slurm_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_jobs(tmp_path) == []
