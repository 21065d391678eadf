"""What is seen of a run: `metrics.jsonl`, TensorBoard, a progress bar or log lines."""

import logging
import math
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from esm1b.errors import UserError, one_line
from esm1b.files import JsonLines
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.metrics.metrics_file import METRICS_FILE
from esm1b.pretraining.metrics.weights_and_biases import WeightsAndBiases

_log = logging.getLogger(__name__)

_IN_BAR: Final = ("loss", "validation_perplexity", "tokens_per_second")


class _TensorBoard(SummaryWriter):
    def write(self, update: int, values: Mapping[str, float | int]) -> None:
        for name, value in values.items():
            self.add_scalar(name, value, update)


_Dashboard = _TensorBoard | WeightsAndBiases


class Monitor:
    """Writes the metrics of one attempt; only the first process has one that is `active`.

    `metrics.jsonl` is append-only: a line has the update, the attempt and the values, null for one
    that is not finite. Where a restart repeats an update, the later line counts. A full disk costs
    lines, not the run; a dashboard that fails is given up for the rest of the attempt.

    Args:
        directory: directory of the checkpoints.
        attempt: number of the attempt, from 1.
        first: updates done before the attempt.
        last: updates of the whole run.
        wandb_project: project of Weights & Biases to log to as well.

    Raises:
        UserError: Weights & Biases is asked for, but not installed, or nobody is logged in.
    """

    def __init__(
        self,
        directory: Path,
        *,
        attempt: int,
        first: int,
        last: int,
        active: bool,
        wandb_project: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._active = active
        if not active:
            return
        self._dashboards: dict[str, _Dashboard] = {}
        if wandb_project is not None:
            with self._optional("Weights & Biases"):
                self._dashboards["Weights & Biases"] = WeightsAndBiases(directory, wandb_project)
        self._attempt, self._last = attempt, last
        self._path = directory / METRICS_FILE
        self._lines = JsonLines(self._path)
        self._is_failing = False
        self._dashboards["TensorBoard"] = _TensorBoard(
            log_dir=str(directory / "tensorboard"), purge_step=first + 1
        )
        self._bar = tqdm(
            initial=first,
            total=last,
            desc="pretraining",
            unit="update",
            smoothing=0.02,  # validations and checkpoints are part of the time that is left
            disable=None,
        )
        self._clock = clock
        self._update = first
        self._begin: tuple[int, float] | None = None

    def write(self, update: int, values: Mapping[str, float | int | None]) -> None:
        """Add a line for `update`, the number of updates done."""
        if not self._active:
            return
        known = {name: value for name, value in values.items() if value is not None}
        finite = {name: value for name, value in known.items() if math.isfinite(value)}
        self._write_line(update, {name: finite.get(name) for name in values})
        self._each_dashboard(lambda dashboard: dashboard.write(update, finite))
        summary = {name: f"{value:.4g}" for name, value in known.items()}
        if sys.stderr.isatty():
            self._bar.set_postfix({name: summary[name] for name in _IN_BAR if name in summary})
        else:
            shown = " ".join(f"{name}={value}" for name, value in summary.items())
            _log.info("update %d of %d%s: %s", update, self._last, self._time_left(), shown)

    def advance(self, update: int) -> None:
        """Move the progress bar to `update`."""
        if self._active:
            self._bar.update(update - self._update)
            self._update = update
            # The first update of an attempt compiles, reads for the first time, and so on.
            self._begin = self._begin or (update, self._clock())

    def close(self) -> None:
        """Flush and close everything."""
        if self._active:
            self._bar.close()
            self._lines.close()
            self._each_dashboard(lambda dashboard: dashboard.close())

    def _time_left(self) -> str:
        if self._begin is None or self._update == self._begin[0]:
            return ""
        update, began = self._begin
        seconds = (self._clock() - began) / (self._update - update) * (self._last - self._update)
        return f" ({tqdm.format_interval(seconds)} left)"

    def _write_line(self, update: int, values: Mapping[str, float | int | None]) -> None:
        try:
            self._lines.write({"update": update, "attempt": self._attempt, **values})
            self._is_failing = False
        except OSError as error:
            if not self._is_failing:
                _log.warning("%s: %s; lines are missing from here on", self._path, error.strerror)
            self._is_failing = True

    def _each_dashboard(self, action: Callable[[_Dashboard], None]) -> None:
        for name, dashboard in list(self._dashboards.items()):
            with self._optional(name):
                action(dashboard)

    @contextmanager
    def _optional(self, name: str) -> Iterator[None]:
        """Give a dashboard up that fails, for whatever reason: the run is worth more."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            self._dashboards.pop(name, None)
            _log.warning("%s: %s; this attempt continues without it", name, one_line(error))


def name_log_lines(place: Place) -> None:
    """Begin the log lines of this process with its rank, unless it is the first one."""
    if place.rank > 0:
        for handler in logging.getLogger().handlers:
            handler.setFormatter(_Ranked(place.rank, handler.formatter or logging.Formatter()))


class _Ranked(logging.Formatter):
    """Puts a rank before every line that another formatter makes."""

    def __init__(self, rank: int, inner: logging.Formatter) -> None:
        super().__init__()
        self._prefix = f"[{rank}] "
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return textwrap.indent(self._inner.format(record), self._prefix, lambda line: True)
