"""Runs of a tiny network, which may be started several times."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from esm1b.pretraining.metrics.metrics_file import read_metrics
from tests.pretraining.fork_server import ForkServer, LaunchedRun


class Run:
    """A folder with the configuration, the checkpoints and the model of a run.

    Args:
        server: starts its processes.
        folder: made if it is missing.
        tokens: what it trains on.
        configuration: of the run; each start may change its recipe.
    """

    def __init__(
        self, server: ForkServer, folder: Path, tokens: Path, configuration: Mapping[str, Any]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._server = server
        self._starts = 0
        self._configuration = configuration
        self.folder = folder
        self.tokens = tokens
        self.checkpoints = folder / "checkpoints"
        self.model = folder / "model"

    def beside(self, name: str) -> "Run":
        """Return another run of the same configuration on the same tokens."""
        return Run(self._server, self.folder / name, self.tokens, self._configuration)

    def command(self, *options: str, **recipe: Any) -> list[str]:
        """Write the configuration with some changes and return the arguments of `esm1b`."""
        changed = self._configuration["pretraining"] | recipe
        path = self.folder / "config.json"
        path.write_text(json.dumps({**self._configuration, "pretraining": changed}))
        return [
            "pretrain",
            str(path),
            f"--tokens={self.tokens}",
            f"--checkpoints={self.checkpoints}",
            f"--output={self.model}",
            "--device=cpu",
            *options,
        ]

    def start(
        self,
        *options: str,
        processes: int = 1,
        patch: Callable[[int], None] | None = None,
        environment: Mapping[str, str] | None = None,
        **recipe: Any,
    ) -> tuple[list[int], LaunchedRun]:
        """Return the exit statuses of a start, when all processes have ended.

        Args:
            options: of the command line.
            processes: how many.
            patch: called in every process before the command, with its rank.
            environment: set in every process.
            recipe: what is changed in the configuration.
        """
        self._starts += 1
        started = self._server.start(
            self.folder / f"start-{self._starts}",
            self.command(*options, **recipe),
            processes=processes,
            environment=environment,
            patch=None if patch is None else f"{patch.__module__}:{patch.__name__}",
        )
        return started.wait(300), started

    def metrics(self) -> list[dict[str, Any]]:
        """Return the training lines."""
        lines = read_metrics(self.checkpoints / "metrics.jsonl")
        return [line for line in lines if "loss" in line]

    def losses(self) -> list[float]:
        """Return the loss of every update."""
        return [line["loss"] for line in self.metrics()]

    def saved(self) -> list[str]:
        """Return the names of the checkpoints."""
        return sorted(path.name for path in self.checkpoints.glob("update-*"))

    def weights(self) -> bytes:
        """Return the file of the model's weights."""
        return (self.model / "model.safetensors").read_bytes()
