"""The training of a prepared directory as jobs, submitted by a script or by Snakemake."""

import json
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Final

from esm1b.files import read_json_lines
from tests.slurm.cluster import (
    ROOT,
    Cluster,
    Workflow,
    change,
    changed_profile,
    environment,
    wait_for,
)
from tests.slurm.conftest import MODEL
from tests.test_pretraining_guide import SCRIPT

_SMALLER: Final = {
    "--ntasks-per-node=8": "--ntasks-per-node=2",
    "--gpus-per-node=8": "--gpus-per-node=2",
    "--cpus-per-task=8": "--cpus-per-task=1",
    "--mem=0": "--mem=4000",
    ". .venv/bin/activate\n": "",
    "pretrain run.yaml": "pretrain results/small/run_config.json --device cpu",
    "--tokens tokens": "--tokens results/corpora/small/tokens",
    "checkpoints/run": "checkpoints/small",
    "--output model": "--output results/small/model --records results/small/training",
    "--micro-batch-tokens auto --threads 4": "--micro-batch-tokens 4096 --threads 1",
}
_OFTEN: Final = ("--set-threads", "pretrain=1", "--seconds-between-status-checks", "1")


class Run(Workflow, ABC):
    """The training of a directory with corpus and tokens.

    Args:
        directory: directory with corpus, tokens and configuration.
        profile: directory of the profile, if Snakemake submits.
        where: cluster to run on.
    """

    def __init__(self, directory: Path, profile: Path, where: Cluster) -> None:
        super().__init__(directory, profile, where, MODEL)
        self.cluster = where

    @abstractmethod
    def submit(
        self, *, nodes: int = 2, processes: int = 2, zero_stage: int = 1, options: str = ""
    ) -> str:
        """Submit the training with so many processes on each node; return the job's number."""

    def finish(self) -> None:
        """Wait for the end of what submitted the last job, which has ended."""

    def wait_to_train(self, attempt: int, job: str, *, updates: int) -> bool:
        """Wait until an attempt has logged so many updates; return whether its job still runs."""

        def is_there() -> bool:
            started = [line for line in self.attempts("started") if line["attempt"] == attempt]
            return bool(started) and self.logged(attempt) >= started[0]["update"] + updates

        def is_over() -> bool:
            return self.cluster.jobs()[job] in ("COMPLETED", "CANCELLED", "FAILED")

        wait_for(lambda: is_there() or is_over(), seconds=200)
        return not is_over()

    def logged(self, attempt: int) -> int:
        """Return the last update that an attempt has logged; 0 before the first."""
        file = self.checkpoints / "metrics.jsonl"
        lines = read_json_lines(file, having="update") if file.exists() else []
        return max((line["update"] for line in lines if line["attempt"] == attempt), default=0)


class Script(Run):
    """The SLURM script of docs/pretraining.md, with smaller numbers.

    Args:
        directory: directory with corpus and tokens.
        where: cluster to run on.
        reference: finished run of the same configuration.
        changes: other values of the configuration's part `pretraining`.
    """

    def __init__(
        self, directory: Path, where: Cluster, reference: Workflow, **changes: Any
    ) -> None:
        super().__init__(directory, Path(), where)
        (directory / "workflow").symlink_to(ROOT / "workflow")
        (directory / "results" / "small").mkdir()
        config = "results/small/run_config.json"
        settings = json.loads((reference.directory / config).read_text())
        settings["pretraining"] |= changes
        (directory / config).write_text(json.dumps(settings))

    def submit(
        self, *, nodes: int = 2, processes: int = 2, zero_stage: int = 1, options: str = ""
    ) -> str:
        text = SCRIPT.rstrip("\n") + f" --zero-stage {zero_stage} {options}\n"
        for given, smaller in _SMALLER.items():
            assert given in text, given
            text = text.replace(given, smaller)
        (self.directory / "job.sh").write_text(text)
        words = (f"--nodes={nodes}", f"--ntasks-per-node={processes}", "job.sh")
        command = self.command_there("sbatch", "--parsable", *words)
        return subprocess.check_output(command, env=environment(), text=True).strip()

    def log(self, job: str) -> str:
        """Return all that a job has said."""
        return (self.directory / f"slurm-{job}.log").read_text(errors="replace")


class Managed(Run):
    """The same under Snakemake with the profile `cluster-generic`, which looks every second."""

    def __init__(self, directory: Path, where: Cluster) -> None:
        cpu = {"device": "cpu", "micro_batch_tokens": "4096", "threads_per_process": "1"}
        cpu |= {"submit": '"--signal=USR1@600"', "mem_mb": "8000"}
        profile = changed_profile("cluster-generic", directory / "profile", **cpu)
        super().__init__(directory, profile, where)
        self._controller: subprocess.Popen[bytes] | None = None

    def submit(
        self, *, nodes: int = 2, processes: int = 2, zero_stage: int = 1, options: str = ""
    ) -> str:
        if self._controller is not None:
            self._controller.wait(timeout=60)
            self._unlock()
        values = {"nodes": nodes, "tasks_per_node": processes, "zero_stage": zero_stage}
        changes = {name: str(value) for name, value in values.items()}
        change(self.profile, options=json.dumps(options), **changes)
        known = set(self.cluster.jobs())
        self._controller = self.start(*_OFTEN)
        return str(wait_for(lambda: [*set(self.cluster.jobs()) - known], seconds=60)[0])

    def finish(self) -> None:
        assert self._controller is not None
        status = self._controller.wait(timeout=60)
        if self._unlock():  # it was killed
            status, text = self.run(*_OFTEN)
            assert "Nothing to be done" in text, text
        assert status == 0

    def _unlock(self) -> bool:
        """Unlock the directory, and return whether it was locked."""
        is_locked = any((self.directory / ".snakemake/locks").glob("*"))
        return is_locked and self.run("--unlock")[0] == 0
