"""What is seen of a run: `metrics.jsonl`, TensorBoard, a progress bar or log lines."""

import json
import logging
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

__all__ = ["Monitor", "read_metrics"]

_log = logging.getLogger(__name__)


class Monitor:
    """Writes the metrics of one attempt; only the first process has one that is `active`.

    `metrics.jsonl` is append-only: a line has the update, the attempt and the values. Where a
    restart repeats an update, the later line counts.
    """

    def __init__(self, directory: Path, *, first: int, last: int, active: bool) -> None:
        self._active = active
        if not active:
            return
        self._path = directory / "metrics.jsonl"
        earlier = read_metrics(self._path) if self._path.exists() else []
        self._attempt = 1 + max((line["attempt"] for line in earlier), default=0)
        self._file = self._path.open("a+b")
        self._end_torn_line()
        self._board = SummaryWriter(log_dir=str(directory / "tensorboard"), purge_step=first + 1)
        self._bar = tqdm(initial=first, total=last, desc="pretraining", unit="update", disable=None)

    def write(self, update: int, values: Mapping[str, float | int | None]) -> None:
        """Add a line for `update`, the number of updates done."""
        if not self._active:
            return
        line = {"update": update, "attempt": self._attempt, **values}
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        for name, value in values.items():
            if value is not None:
                self._board.add_scalar(name, value, update)
        summary = {name: f"{value:.4g}" for name, value in values.items() if value is not None}
        if sys.stderr.isatty():
            shown = ("loss", "validation_perplexity", "tokens_per_second")
            self._bar.set_postfix({name: summary[name] for name in shown if name in summary})
        else:
            _log.info("update %d: %s", update, " ".join(f"{n}={v}" for n, v in summary.items()))

    def advance(self, update: int) -> None:
        """Move the progress bar to `update`."""
        if self._active:
            self._bar.update(update - self._bar.n)

    def close(self) -> None:
        """Flush and close everything."""
        if self._active:
            self._bar.close()
            self._board.close()
            self._file.close()

    def _end_torn_line(self) -> None:
        """End a last line that a kill cut short, so that the next one starts on its own."""
        if self._file.seek(0, 2) > 0:
            self._file.seek(-1, 2)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a `metrics.jsonl` by update, the latest attempt of each; torn lines out.

    Lines with a validation are apart from those with a loss, so an update can have both.
    """
    lines: dict[tuple[int, bool], dict[str, Any]] = {}
    for line in _whole_lines(path.read_bytes().splitlines()):
        lines[line["update"], "loss" in line] = line
    return [lines[key] for key in sorted(lines)]


def _whole_lines(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and "update" in value:
            yield value
