"""`metrics.jsonl`: what was measured of a run, by update; and which losses in it are spikes."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from esm1b.files import read_json_lines

METRICS_FILE: Final = "metrics.jsonl"
"""Name in the directory of the checkpoints; docs/pretraining.md has all keys of a line."""

RECENT_LOSSES: Final = 100
"""Number of logged losses that a new one is compared with."""

# Fewer say too little about the spread.
_FEWEST: Final = 20
_LARGEST_DEVIATION: Final = 6.0
# The standard deviation of a normal distribution over its median absolute deviation.
_NORMAL: Final = 1.4826
# The smallest standard deviation, as a share of the median: a flat curve has no spikes.
_SMALLEST_SPREAD: Final = 0.002


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a `metrics.jsonl` by update, the latest attempt of each; torn lines out.

    Lines with a validation are apart from those with a loss, so an update can have both.

    Raises:
        OSError: the file cannot be read.
    """
    lines: dict[tuple[int, bool], dict[str, Any]] = {}
    for line in read_json_lines(path, having="update"):
        lines[line["update"], "loss" in line] = line
    return [lines[key] for key in sorted(lines)]


def recent_losses(directory: Path, updates: int) -> list[float]:
    """Return the last losses, at most `RECENT_LOSSES`, that were logged in `updates` updates."""
    path = directory / METRICS_FILE
    lines = read_metrics(path) if path.exists() else []
    losses = (line.get("loss") for line in lines if line["update"] <= updates)
    return [loss for loss in losses if loss is not None][-RECENT_LOSSES:]


def is_spike(loss: float, recent: Sequence[float]) -> bool:
    """Return whether `loss` is far above the `RECENT_LOSSES` last of `recent`.

    Far is six standard deviations above the median, as estimated from the median absolute
    deviation: neither moves with the few spikes that `recent` may hold. A loss that is not
    finite is a spike. The first 20 losses are not judged.

    Args:
        loss: loss to judge, in nats.
        recent: losses logged before, oldest first; those that are not finite are left out.
    """
    if not math.isfinite(loss):
        return True
    window = [value for value in recent[-RECENT_LOSSES:] if math.isfinite(value)]
    if len(window) < _FEWEST:
        return False
    median = statistics.median(window)
    deviation = _NORMAL * statistics.median(abs(value - median) for value in window)
    return loss > median + _LARGEST_DEVIATION * max(deviation, _SMALLEST_SPREAD * median)
