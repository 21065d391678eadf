"""A run in the terminal, from the files that it writes: `esm1b watch`."""

import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import uniplot
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from esm1b.errors import UserError
from esm1b.pretraining.attempt_log import ATTEMPTS_FILE
from esm1b.pretraining.metrics.metrics_file import METRICS_FILE, read_metrics
from esm1b.pretraining.progress import Progress, read_progress

_SECONDS: Final = 2.0
# Reading a long run's metrics takes a while; watching takes at most a tenth of a processor.
_IDLE_SHARE: Final = 10
_PLOT_ROWS: Final = 12
_POINTS: Final = 2000


def find_run(run: str) -> Path:
    """Return the directory with the records of a run.

    `run` is a checkpoint directory, a directory of copied records, or the name of a run whose
    `checkpoints/NAME` or `results/NAME/training` is in the working directory.

    Raises:
        UserError: none of them holds a run.
    """
    places = [Path(run), Path("checkpoints", run), Path("results", run, "training")]
    for place in places:
        if (place / METRICS_FILE).exists() or (place / ATTEMPTS_FILE).exists():
            return place
    looked = ", ".join(map(str, places))
    raise UserError(f"{run}: no {METRICS_FILE} or {ATTEMPTS_FILE}; looked in {looked}")


def watch(directory: Path, console: Console) -> None:
    """Show a run until it has finished or Ctrl-C is pressed; once where there is no terminal."""
    if not console.is_terminal:
        console.print(screen(directory, read_progress(directory), console))
        return
    with Live(console=console, screen=False, auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            progress = read_progress(directory)
            live.update(screen(directory, progress, console), refresh=True)
            if progress.state == "finished":
                return
            time.sleep(max(_SECONDS, _IDLE_SHARE * (time.monotonic() - began)))


def screen(directory: Path, progress: Progress, console: Console) -> Group:
    """Return everything to show of a run: progress, loss curve, validation, attempts, warning."""
    metrics = read_metrics(directory / METRICS_FILE) if (directory / METRICS_FILE).exists() else []
    losses = [line for line in metrics if line.get("loss") is not None]
    validations = [line for line in metrics if line.get("validation_loss") is not None]
    rows: list[Any] = [Text.assemble((str(directory), "bold"), f"  {progress.state}")]
    if progress.updates:
        width = min(console.width, 100)
        bar = ProgressBar(total=progress.updates, completed=progress.update, width=width)
        rows.append(Padding(bar, 0))  # ends the line
    rows.append(Text(progress.line))
    if losses:
        rows.append(_curve(losses, validations, console))
    rows.append(_facts(progress, validations))
    return Group(*rows)


def _curve(
    losses: list[dict[str, Any]], validations: list[dict[str, Any]], console: Console
) -> Text:
    """Return the training loss by update, and the validation loss over it, as characters."""
    points = {}
    for key, lines in (("loss", losses), ("validation_loss", validations)):
        if lines:
            thinned = lines[:: -(-len(lines) // _POINTS)]
            points[key] = np.array([(line["update"], line[key]) for line in thinned]).T
    text = uniplot.plot_to_string(
        xs=[x for x, _ in points.values()],
        ys=[y for _, y in points.values()],
        width=min(console.width, 100) - 20,
        height=_PLOT_ROWS,
        legend_labels=["training loss", "validation loss"][: len(points)],
        character_set="braille",
        color=console.is_terminal,
    )
    return Text.from_ansi(text)


def _facts(progress: Progress, validations: list[dict[str, Any]]) -> Table:
    table = Table.grid(padding=(0, 2))
    if validations:
        newest = validations[-1]
        best = min(line["validation_loss"] for line in validations)
        table.add_row(
            "validation",
            f"perplexity {newest['validation_perplexity']:.3f} (lowest {np.exp(best):.3f}), "
            f"{newest['validation_mask_perplexity']:.3f} at <mask>, update {newest['update']:,}",
        )
    table.add_row("attempts", str(progress.attempts))
    for line in progress.history:
        table.add_row("", Text(line))
    if progress.state == "training" and progress.seconds_ago is not None:
        table.add_row("last line", f"{progress.seconds_ago:.0f} s ago")
    if progress.warning:
        table.add_row("warning", Text(progress.warning))
    return table
