"""The SLURM script of docs/pretraining.md in a directory, with smaller numbers."""

import shutil
import subprocess
from pathlib import Path

from esm1b.files import read_json_lines
from tests.slurm.cluster import ROOT, Cluster, Workflow, environment, wait_for
from tests.test_pretraining_guide import SCRIPT

_SMALLER = {
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


class Script(Workflow):
    """The training alone, submitted by `sbatch`.

    Args:
        directory: directory with corpus and tokens.
        where: cluster to run on.
        reference: finished run of the same configuration.
    """

    def __init__(self, directory: Path, where: Cluster, reference: Workflow) -> None:
        super().__init__(directory, Path(), where)
        self.cluster = where
        (directory / "workflow").symlink_to(ROOT / "workflow")
        (directory / "results" / "small").mkdir()
        config = "results/small/run_config.json"
        shutil.copy(reference.directory / config, directory / config)

    def submit(self, *words: str, zero_stage: int = 1, options: str = "") -> str:
        """Submit the script and return the job's number.

        Args:
            words: options of `sbatch`, which count before those of the script.
            zero_stage: ZeRO stage of the run.
            options: options of `esm1b pretrain`.
        """
        text = SCRIPT.rstrip("\n") + f" --zero-stage {zero_stage} {options}\n"
        for given, smaller in _SMALLER.items():
            assert given in text, given
            text = text.replace(given, smaller)
        (self.directory / "job.sh").write_text(text)
        command = self.command_there("sbatch", "--parsable", *words, "job.sh")
        return subprocess.check_output(command, env=environment(), text=True).strip()

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

    def log(self, job: str) -> str:
        """Return all that a job has said."""
        return (self.directory / f"slurm-{job}.log").read_text(errors="replace")
