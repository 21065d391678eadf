"""How far a run has come, from the files that it writes; the run may be on another machine."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from esm1b.errors import UserError
from esm1b.files import read_json, read_json_lines
from esm1b.pretraining.attempt_log import ATTEMPTS_FILE, read_attempts
from esm1b.pretraining.checkpoints.run_identity import RUN_FILE
from esm1b.pretraining.metrics.metrics_file import METRICS_FILE

_TAIL_BYTES: Final = 16_384  # a line has about 500
_SHOWN_ATTEMPTS: Final = 5


@dataclass(frozen=True, kw_only=True)
class Progress:
    """State of a run at its newest line of metrics.

    Attributes:
        line: update, loss, rate and time left in one line of about 80 characters; the time is the
            one at this rate, validation and saving left out.
        update: updates done, 0 before the first line.
        updates: updates of the whole run; None if the run does not record them.
        attempts: number of attempts so far.
        history: newest attempts, one line each: job and nodes, first update, how it ended.
        state: "training", "finished", or how the newest attempt ended with its message.
        warning: newest warning of the run, None without one.
        seconds_ago: seconds since the run last wrote its metrics.
    """

    line: str
    update: int
    updates: int | None
    attempts: int
    history: tuple[str, ...]
    state: str
    warning: str | None
    seconds_ago: float | None


def read_progress(directory: Path) -> Progress:
    """Return the progress of the run whose checkpoints are in `directory`.

    Raises:
        UserError: the directory holds no run.
    """
    metrics = directory / METRICS_FILE
    attempts = read_attempts(directory / ATTEMPTS_FILE)
    is_measured = metrics.exists()
    lines = read_json_lines(metrics, having="update", last_bytes=_TAIL_BYTES) if is_measured else []
    if not attempts and not lines:
        missing = f"no {METRICS_FILE} and no {ATTEMPTS_FILE}"
        raise UserError(f"{directory}: {missing}; expected a run's directory")
    started = [line for line in attempts if line["event"] == "started"]
    ended = [line for line in attempts if line["event"] not in ("started", "warning")]
    warnings = [line["message"] for line in attempts if line["event"] == "warning"]
    state = "training"
    if started and ended and ended[-1]["attempt"] >= started[-1]["attempt"]:
        state = _ending(ended[-1])
    losses = [line for line in lines if line.get("loss") is not None]
    newest = losses[-1] if losses else {"update": 0}
    update, rate = newest["update"], newest.get("tokens_per_second")
    updates = started[-1].get("updates") if started else None
    parts = [f"update {update:,}" + ("" if updates is None else f" of {updates:,}")]
    if losses:
        parts.append(f"loss {newest['loss']:.3f}")
    if rate is not None:
        parts.append(f"{rate:,.0f} tokens/s")
    recorded = directory / RUN_FILE
    if state == "training" and rate and updates is not None and recorded.exists():
        tokens = read_json(recorded).get("pretraining.tokens_per_update")
        if tokens is not None:
            parts.append(f"{tqdm.format_interval((updates - update) * tokens / rate)} left")
    return Progress(
        line=", ".join(parts),
        update=update,
        updates=updates,
        attempts=len(started),
        history=tuple(_history(line, ended) for line in started[-_SHOWN_ATTEMPTS:]),
        state=state,
        warning=warnings[-1] if warnings else None,
        seconds_ago=time.time() - metrics.stat().st_mtime if is_measured else None,
    )


def _history(started: Mapping[str, Any], ended: Sequence[Mapping[str, Any]]) -> str:
    """Return an attempt in a line, from its first line and the last lines of all attempts."""
    number = started["attempt"]
    where = [started["job"]] if started.get("job") else []
    where += [f"on {', '.join(started['nodes'])}"] if started.get("nodes") else []
    endings = [_ending(line) for line in ended if line["attempt"] == number]
    ending = endings[-1] if endings else "no end recorded: under way or killed"
    where.append(f"from update {started['update']:,}")
    return f"{number}: {' '.join(where)}: {ending}"


def _ending(line: Mapping[str, Any]) -> str:
    """Return "lost: rank 3 on n2 died"."""
    return ": ".join(str(part) for part in (line["event"], line.get("message")) if part)
