"""Commands started from a process that has imported what they need, which takes no time."""

import hashlib
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

PRELOADED = (
    "esm1b.corpus.sharding.shard",
    "esm1b.corpus.tokens.tokenize",
    "esm1b.download.download",
    "esm1b.evaluation.contacts.contacts",
    "esm1b.evaluation.perplexity",
    "esm1b.evaluation.secondary_structure.secondary_structure",
    "esm1b.inference.contact_maps",
    "esm1b.inference.embed",
    "esm1b.pretraining.audit.audit",
    "esm1b.pretraining.pretrain",
    "esm1b.publishing.exchange",
    "esm1b.report.page",
    "esm1b.synthetic.dataset",
    "deepspeed",
    "torch._dynamo",
    "sklearn.linear_model",
    "scipy.stats",
)

if multiprocessing.current_process().name == "MainProcess":
    CONTEXT = multiprocessing.get_context("forkserver")
    CONTEXT.set_forkserver_preload(["esm1b.cli", *PRELOADED])


class Started:
    """A command under way, whose output goes to `log`."""

    def __init__(self, arguments: Sequence[Any], log: Path) -> None:
        self._log = log
        self._process = CONTEXT.Process(target=_run, args=([*map(str, arguments)], str(log)))
        self._process.start()
        self._began = time.monotonic()
        self.ended = 0.0

    def kill_after(self, seconds: float) -> None:
        """Kill it so long after its start, unless it has ended."""
        self._process.join(max(0.0, self._began + seconds - time.monotonic()))
        self._process.kill()

    def end(self) -> int:
        """Wait for its end and return its exit status."""
        self._process.join(timeout=100)
        assert self._process.exitcode is not None, "it does not end"
        return self._process.exitcode

    @property
    def told(self) -> list[str]:
        """The lines that it printed, without those of the log."""
        return [line for line in self._log.read_text().splitlines() if line[2:3] != ":"]

    @property
    def text(self) -> str:
        return self._log.read_text()


def _run(arguments: Sequence[str], log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["esm1b", *arguments]
    import_module("esm1b.cli").main()


def digest(paths: Sequence[Path]) -> str | None:
    """Return a digest of the names and contents of files and directories; None if none is there."""
    found = hashlib.sha256()
    files = sorted(
        file
        for path in paths
        for file in ([path] if path.is_file() else path.rglob("*"))
        if file.is_file()
    )
    for file in files:
        found.update(f"{file.name} {file.stat().st_size}\n".encode())
        found.update(file.read_bytes())
    return found.hexdigest() if files else None
