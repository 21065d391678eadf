"""The console of `make demo`: a line for each stage, and a live one for pretraining.

A logger plugin: `PYTHONPATH=workflow/console snakemake --logger esm1b`. On a terminal the stages at
work are shown below the finished ones, with the time each has taken so far. Elsewhere, in CI or in
a file, stages have a plain line at their beginning and their end. A dry run looks as always.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from esm1b.errors import UserError
from esm1b.pretraining.progress import read_progress

_LOG_LINES: Final = 20


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """A job at work.

    Attributes:
        message: what the job does, from its rule.
        checkpoints: checkpoint directory of the run that it trains; None for other jobs.
        began: start in seconds of the monotonic clock.
    """

    message: str
    checkpoints: Path | None
    began: float

    def elapsed(self) -> str:
        seconds = int(time.monotonic() - self.began)
        return f"{seconds // 60}:{seconds % 60:02}"

    def progress(self) -> str:
        if self.checkpoints is None:
            return ""
        try:
            return read_progress(self.checkpoints).line
        except (OSError, UserError):  # nothing is written yet
            return ""


class LogHandler(LogHandlerBase):
    """Shows the jobs of a workflow without Snakemake's tables and commands."""

    def __post_init__(self) -> None:
        """Prepare the console; nothing is drawn before the first job."""
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._stages: dict[int, _Stage] = {}
        self._live: Live | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Show one event of the workflow."""
        if self.common_settings.dryrun or self.common_settings.verbose:
            self._print(self.format(record))
            return
        details: dict[str, Any] = vars(record)
        match details.get("event"):
            case LogEvent.JOB_INFO:
                self._begin(details)
            case LogEvent.JOB_FINISHED:
                self._end(details["job_id"], "done", "green")
            case LogEvent.JOB_ERROR:
                self._end(details["jobid"], "failed", "red")
                for path in details["log"]:
                    self._print_log(Path(path))
            case None if "Nothing to be done" in record.getMessage():
                self._print(record.getMessage())
            case _ if record.levelno >= logging.WARNING:
                self._print(record.getMessage())

    def close(self) -> None:
        """Leave the terminal as it was found."""
        self._stop()
        super().close()

    def _begin(self, details: dict[str, Any]) -> None:
        name = details["rule_name"]
        if name == "all":  # collects the others
            return
        stage = _Stage(
            message=details["rule_msg"] or name,
            checkpoints=Path("checkpoints", details["wildcards"]["run"])
            if name == "pretrain"
            else None,
            began=time.monotonic(),
        )
        self._stages[details["jobid"]] = stage
        if not self._console.is_terminal:
            self._print(f"{time.strftime('%H:%M:%S')} {stage.message}")
        elif self._live is None:
            self._live = Live(console=self._console, get_renderable=self._at_work, transient=True)
            self._live.start()

    def _end(self, job: int, how: str, color: str) -> None:
        stage = self._stages.pop(job, None)
        if stage is None:
            return
        if not self._stages:
            self._stop()
        now = time.strftime("%H:%M:%S")
        text = f" {stage.message} ({stage.elapsed()})"
        self._console.print(Text.assemble(f"{now} ", (f"{how:6}", color), text))

    def _at_work(self) -> Group:
        return Group(
            *(
                Text(f"{'':16}{stage.message} ({stage.elapsed()})  {stage.progress()}")
                for stage in list(self._stages.values())
            )
        )

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, text: str) -> None:
        if text and text != "None":
            self._console.print(text, markup=False)

    def _print_log(self, path: Path) -> None:
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        self._print(f"The end of {path}:")
        for line in lines[-_LOG_LINES:]:
            self._print(f"    {line}")

    @property
    def writes_to_stream(self) -> bool:
        """True: it takes the place of Snakemake's own console."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """False: Snakemake keeps its own log file."""
        return False

    @property
    def has_filter(self) -> bool:
        """False: Snakemake's options --quiet and --printshellcmds hold."""
        return False

    @property
    def has_formatter(self) -> bool:
        """False: a dry run is formatted by Snakemake."""
        return False

    @property
    def needs_rulegraph(self) -> bool:
        """False: the order of the jobs is enough."""
        return False
