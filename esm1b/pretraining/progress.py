"""How far a run has come, from the files that it writes; the run may be on another machine."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tqdm import tqdm

from esm1b.errors import UserError
from esm1b.files import read_json, read_json_lines
from esm1b.pretraining.attempt_log import ATTEMPTS_FILE, read_attempts
from esm1b.pretraining.checkpoints.run_identity import RUN_FILE
from esm1b.pretraining.metrics.metrics_file import METRICS_FILE

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
    losses = [line for line in lines if line.get("loss") is not None]
    newest = losses[-1] if losses else {}
    update, rate = newest.get("update", 0), newest.get("tokens_per_second")
    updates = started[-1].get("updates") if started else None
    state = "training"
    if started and ended and ended[-1]["attempt"] >= started[-1]["attempt"]:
        ending = (ended[-1]["event"], ended[-1].get("message"))
        state = ": ".join(str(part) for part in ending if part)
    return Progress(
        update=update,
        updates=updates,
        loss=newest.get("loss"),
        tokens_per_second=rate,
        seconds_left=_seconds_left(directory, update, updates, rate),
        attempts=len(started),
        state=state,
        warning=warnings[-1] if warnings else None,
        seconds_ago=time.time() - metrics.stat().st_mtime if is_measured else None,
    )


def _seconds_left(
    directory: Path, update: int, updates: int | None, rate: float | None
) -> float | None:
    recorded = directory / RUN_FILE
    if updates is None or not rate or not recorded.exists():
        return None
    tokens = read_json(recorded).get("pretraining.tokens_per_update")
    return None if tokens is None else (updates - update) * tokens / rate
