"""A run of the demonstration's corpus in bf16: stopped, killed, resumed, laid out otherwise.

All of it at the same time, each with the same batches:

- `undisturbed` and `other_layout`, compiled on a GPU: the second is stopped by a signal and resumed
  with half the micro-batch and ZeRO stage 2;
- `killed` and `killed_deterministic`: killed after a checkpoint, at a random moment, again and
  again, and resumed in the same layout; the second asks for deterministic kernels, as does
  `deterministic`, to which it must be equal, bit for bit.

The other losses may differ from those of `undisturbed` by sums in other orders.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import describe_machine
from benchmarks.network import add_network_options, size_of
from esm1b.corpus.records.selection import Selection
from esm1b.corpus.sharding.shard import shard
from esm1b.corpus.tokens.tokenize import tokenize
from esm1b.files import sha256_file, write_json
from esm1b.pretraining.checkpoints.files import saved_checkpoints
from esm1b.pretraining.metrics.metrics_file import METRICS_FILE, read_metrics
from esm1b.synthetic.dataset import synthesize

LOSS_BOUND: Final = 2e-2
"""Largest relative difference of a logged loss from the undisturbed run's."""

_DETERMINISTIC: Final = (
    "import torch; torch.use_deterministic_algorithms(True); from esm1b.cli import main; main()"
)
# What cuBLAS asks for to be deterministic (torch's notes on reproducibility)
_CUBLAS: Final = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
_STOPPED: Final = 75
_LONGEST_DELAY: Final = 0.5


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_network_options(parser, layers=4, width=256, heads=4)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="device")
    for name, default, what in (
        ("sequences", 2000, "sequences of each of the 16 families"),
        ("updates", 1000, "updates of a run"),
        ("tokens-per-update", 8192, "tokens of an update"),
        ("rounds", 5, "times that each killed run is killed"),
        ("seconds", 600, "time limit"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=what)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Do all runs and return how far they are from each other; what failed says why."""
    with tempfile.TemporaryDirectory() as name:
        runs = _Runs(Path(name), options)
        work: dict[str, Callable[[], dict[str, Any]]] = {
            "undisturbed": lambda: runs.whole("undisturbed", *runs.compiled),
            "other_layout": runs.other_layout,
            "killed": lambda: runs.killed("killed"),
            "deterministic": lambda: runs.whole("deterministic"),
            "killed_deterministic": lambda: runs.killed("killed_deterministic"),
        }
        try:
            with ThreadPoolExecutor(len(work)) as pool:
                done = {name: pool.submit(_attempt, one) for name, one in work.items()}
            results = {name: one.result() for name, one in done.items()}
        finally:
            for process in runs.processes:
                process.kill()
        for name in ("other_layout", "killed"):
            if not {"failed"} & (results[name].keys() | results["undisturbed"].keys()):
                results[name] |= runs.differences(name, "undisturbed")
        name = "killed_deterministic"
        if not {"failed"} & (results[name].keys() | results["deterministic"].keys()):
            results[name] |= runs.equality("deterministic", name)
    return {
        "benchmark": "runs of the demonstration's corpus, undisturbed and disturbed",
        "machine": describe_machine(options.threads),
        "settings": {key: value for key, value in vars(options).items() if key != "output"},
        "loss_bound": LOSS_BOUND,
        "kills": sum(len(result.get("killed_after", ())) for result in results.values()),
        "runs": results,
    }


def _attempt(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return work()
    except Exception as error:
        return {"failed": str(error)}


class _Runs:
    """Runs of one recipe, each in a folder of its name."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self._folder, self._options = folder, options
        self._end = time.monotonic() + options.seconds
        self.processes: list[subprocess.Popen[bytes]] = []
        self.compiled = ("--compile",) if options.device == "cuda" else ()
        synthesize(folder / "synthetic", sequences=options.sequences, seed=options.seed)
        fasta, corpus = folder / "synthetic/sequences.fasta.gz", folder / "corpus"
        shard([str(fasta)], corpus, Selection(validation_fraction=0.02), shards=4)
        tokenize(corpus, folder / "tokens")
        content = {
            "run": "gpu",
            "seed": options.seed,
            "model": size_of(options),
            "pretraining": {
                "updates": options.updates,
                "tokens_per_update": options.tokens_per_update,
                "learning_rate": 2e-3,
                "warmup_updates": max(1, options.updates // 10),
                "precision": "bf16",
                "log_interval": max(1, options.updates // 100),
                "validation_interval": options.updates,
                "checkpoint_interval": max(1, options.updates // 20),
            },
        }
        write_json(folder / "run.json", content)

    def whole(self, name: str, *layout: str) -> dict[str, Any]:
        """Do a run without a stop."""
        self._finish(name, self._start(name, *layout))
        return {"updates": self._options.updates}

    def other_layout(self) -> dict[str, Any]:
        """Stop a run after a third of its updates; resume it in another layout."""
        name = "other_layout"
        first = self._start(name, *self.compiled)
        self._wait(name, first, lambda: self._reached(name) >= self._options.updates // 3)
        first.send_signal(signal.SIGTERM)
        self._finish(name, first, _STOPPED)
        stopped_after = max(saved_checkpoints(self._folder / name))
        again = self._start(name, *self.compiled, "--zero-stage=2", micro_batches=2)
        self._finish(name, again)
        return {"stopped_after": stopped_after}

    def killed(self, name: str) -> dict[str, Any]:
        """Kill a run some times, each time at a random moment after a new checkpoint."""
        moments = random.Random(name)
        killed_after = []
        for _ in range(self._options.rounds):
            before = self._newest(name)
            process = self._start(name)
            self._wait(name, process, partial(self._is_newer, name, before))
            time.sleep(moments.uniform(0, _LONGEST_DELAY))
            if process.poll() is None:
                process.kill()
                process.wait()
                killed_after.append(self._newest(name))
        self._finish(name, self._start(name))
        return {"killed_after": killed_after}

    def differences(self, name: str, other: str) -> dict[str, Any]:
        """Return how the losses and the sequences of two runs differ."""
        ours, theirs = self._losses(name), self._losses(other)
        pairs = [(ours[update], theirs[update]) for update in ours.keys() & theirs.keys()]
        return {
            "logged_updates": len(pairs),
            "largest_relative_difference": max(abs(a["loss"] / b["loss"] - 1) for a, b in pairs),
            "same_sequences": len(pairs) == len(ours) == len(theirs)
            and all(a["sequences_seen"] == b["sequences_seen"] for a, b in pairs),
        }

    def equality(self, *names: str) -> dict[str, Any]:
        """Return whether losses and weights of two runs are the same bits."""
        ours, theirs = (
            {u: line["loss"] for u, line in self._losses(name).items()} for name in names
        )
        weights = {sha256_file(self._folder / name / "model/model.safetensors") for name in names}
        return {"same_losses": ours == theirs, "same_weights": len(weights) == 1}

    def _start(self, name: str, *layout: str, micro_batches: int = 1) -> "subprocess.Popen[bytes]":
        """Start or resume the run `name`, with so many micro-batches in an update."""
        is_deterministic = name.endswith("deterministic")
        program = ["-c", _DETERMINISTIC] if is_deterministic else ["-m", "esm1b"]
        directory = self._folder / name
        directory.mkdir(exist_ok=True)
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, *program, "pretrain", str(self._folder / "run.json")),
                    *("--tokens", str(self._folder / "tokens"), "--checkpoints", str(directory)),
                    *("--output", str(directory / "model"), "--device", self._options.device),
                    *("--threads", str(self._options.threads)),
                    f"--micro-batch-tokens={self._options.tokens_per_update // micro_batches}",
                    *layout,
                ],
                env={**os.environ, **(_CUBLAS if is_deterministic else {})},
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def _wait(
        self, name: str, process: "subprocess.Popen[bytes]", is_there: Callable[[], bool]
    ) -> None:
        """Wait until `is_there`, or the process ends."""
        while not is_there() and process.poll() is None:
            if time.monotonic() > self._end:
                raise RuntimeError(f"{name}: not done in time; {self._last_line(name)}")
            time.sleep(0.05)

    def _finish(self, name: str, process: "subprocess.Popen[bytes]", expected: int = 0) -> None:
        self._wait(name, process, lambda: False)
        if process.returncode != expected:
            raise RuntimeError(
                f"{name}: status {process.returncode}, not {expected}; {self._last_line(name)}"
            )

    def _last_line(self, name: str) -> str:
        lines = (self._folder / f"{name}.log").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it wrote nothing"

    def _newest(self, name: str) -> int:
        return max(saved_checkpoints(self._folder / name), default=0)

    def _is_newer(self, name: str, before: int) -> bool:
        return self._newest(name) > before

    def _reached(self, name: str) -> int:
        path = self._folder / name / METRICS_FILE
        return (
            max((line["update"] for line in read_metrics(path)), default=0) if path.exists() else 0
        )

    def _losses(self, name: str) -> dict[int, dict[str, Any]]:
        lines = read_metrics(self._folder / name / METRICS_FILE)
        return {line["update"]: line for line in lines if "loss" in line}
