"""`metrics.jsonl`: what was measured of a run, by update."""

from pathlib import Path
from typing import Any, Final

from esm1b.files import read_json_lines

METRICS_FILE: Final = "metrics.jsonl"
"""Name in the directory of the checkpoints; docs/pretraining.md has all keys of a line."""


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
