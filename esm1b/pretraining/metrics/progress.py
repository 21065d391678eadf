"""How far a run has come, from the files that it writes; the run may be on another machine."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from esm1b.errors import UserError
from esm1b.files import read_json, read_json_lines

ATTEMPTS: Final = "attempts.jsonl"
METRICS: Final = "metrics.jsonl"

_TAIL_BYTES: Final = 16_384  # a line has about 500


@dataclass(frozen=True, kw_only=True)
class Progress:
    """State of a run at its newest line of metrics.

    Attributes:
        update: updates done, 0 before the first line.
        updates: updates of the whole run; None if the run does not record them.
        loss: training loss in nats, None before the first line.
        tokens_per_second: unpadded tokens of all processes.
        seconds_left: seconds to the end at this rate, validation and saving left out.
        attempts: number of attempts so far.
        state: "training", "finished", or how the newest attempt ended with its message.
        warning: newest warning of the run, None without one.
        seconds_ago: seconds since the run last wrote its metrics.
    """

    update: int
    updates: int | None
    loss: float | None
    tokens_per_second: float | None
    seconds_left: float | None
    attempts: int
    state: str
    warning: str | None
    seconds_ago: float | None

    def line(self) -> str:
        """Return update, loss, rate and time left in one line of about 80 characters."""
        of = "" if self.updates is None else f" of {self.updates:,}"
        parts = [f"update {self.update:,}{of}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if self.tokens_per_second is not None:
            parts.append(f"{self.tokens_per_second:,.0f} tokens/s")
        if self.seconds_left is not None and self.state == "training":
            parts.append(f"{tqdm.format_interval(self.seconds_left)} left")
        return ", ".join(parts)


def read_progress(directory: Path) -> Progress:
    """Return the progress of the run whose checkpoints are in `directory`.

    Raises:
        UserError: the directory holds no run.
    """
    attempts = _attempts(directory)
    lines = _newest_lines(directory / METRICS)
    if not attempts and not lines:
        raise UserError(f"{directory}: no {METRICS} and no {ATTEMPTS}; expected a run's directory")
    started = [line for line in attempts if line["event"] == "started"]
    ended = [line for line in attempts if line["event"] not in ("started", "warning")]
    training = [line for line in lines if line.get("loss") is not None]
    update = training[-1]["update"] if training else 0
    updates = started[-1].get("updates") if started else None
    rate = training[-1].get("tokens_per_second") if training else None
    return Progress(
        update=update,
        updates=updates,
        loss=training[-1]["loss"] if training else None,
        tokens_per_second=rate,
        seconds_left=_seconds_left(directory, update, updates, rate),
        attempts=len(started),
        state=_state(started, ended),
        warning=next((x["message"] for x in reversed(attempts) if x["event"] == "warning"), None),
        seconds_ago=_age(directory / METRICS),
    )


def _attempts(directory: Path) -> list[dict[str, Any]]:
    path = directory / ATTEMPTS
    return read_json_lines(path, having="attempt") if path.exists() else []


def _newest_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines in the last 16 KiB of a file, except those cut at either end."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES)
        file.seek(start)
        raw = file.read().split(b"\n")
    found = []
    for text in raw[start > 0 :]:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("update"), int):
            found.append(line)
    return found


def _seconds_left(
    directory: Path, update: int, updates: int | None, rate: float | None
) -> float | None:
    recorded = directory / "run.json"
    if updates is None or not rate or not recorded.exists():
        return None
    tokens = read_json(recorded).get("pretraining.tokens_per_update")
    return None if tokens is None else (updates - update) * tokens / rate


def _state(started: list[dict[str, Any]], ended: list[dict[str, Any]]) -> str:
    if not started or not ended or ended[-1]["attempt"] < started[-1]["attempt"]:
        return "training"
    last = ended[-1]
    return ": ".join(str(part) for part in (last["event"], last.get("message")) if part)


def _age(path: Path) -> float | None:
    return time.time() - path.stat().st_mtime if path.exists() else None
