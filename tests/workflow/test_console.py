import io
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from snakemake_interface_logger_plugins.common import LogEvent

sys.path.insert(0, str(Path(__file__).parents[2] / "workflow" / "console"))
from snakemake_logger_plugin_esm1b import LogHandler


class Shown:
    """The console of a workflow that is told of some events."""

    def __init__(self, *, terminal: bool = False, dryrun: bool = False) -> None:
        self.file = io.StringIO()
        settings: Any = SimpleNamespace(dryrun=dryrun, verbose=False)
        self.handler = LogHandler(settings, None)
        self.handler._console = Console(file=self.file, width=120, force_terminal=terminal)

    def tell(self, event: LogEvent | None, message: str = "", **details: Any) -> None:
        level = details.pop("level", logging.INFO)
        record = logging.makeLogRecord({"msg": message, "levelno": level, "event": event})
        vars(record).update(details)
        self.handler.emit(record)

    def begin(self, rule: str, message: str | None, job: int = 1) -> None:
        self.tell(
            LogEvent.JOB_INFO,
            jobid=job,
            rule_name=rule,
            rule_msg=message,
            wildcards={"run": "mine"},
        )

    @property
    def text(self) -> str:
        return self.file.getvalue()


def test_piped_a_stage_has_a_plain_line_at_its_beginning_and_end() -> None:
    shown = Shown()
    shown.tell(None, "Building DAG of jobs...")
    shown.begin("shard", "Cleaning and sharding the sequences")
    shown.tell(LogEvent.SHELLCMD, "esm1b shard ...")
    shown.tell(LogEvent.JOB_FINISHED, job_id=1)
    began, ended = shown.text.splitlines()
    assert began[9:] == "Cleaning and sharding the sequences"
    assert ended[9:] == "done   Cleaning and sharding the sequences (0:00)"


def test_a_failure_shows_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "pretrain.log"
    log.write_text("".join(f"line {n}\n" for n in range(50)))
    shown = Shown()
    shown.begin("pretrain", "Pretraining run mine")
    shown.tell(LogEvent.JOB_ERROR, jobid=1, log=[str(log)], level=logging.ERROR)
    shown.tell(None, "At least one job did not complete successfully.", level=logging.ERROR)
    lines = shown.text.splitlines()
    assert lines[1][9:] == "failed Pretraining run mine (0:00)"
    assert lines[2] == f"The end of {log}:"
    assert lines[3:23] == [f"    line {n}" for n in range(30, 50)]
    assert lines[23:] == ["At least one job did not complete successfully."]


def test_pretraining_has_a_live_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "checkpoints" / "mine"
    directory.mkdir(parents=True)
    shown = Shown(terminal=True)
    shown.begin("pretrain", "Pretraining run mine")
    (directory / "metrics.jsonl").write_text('{"update": 20, "loss": 2.5}\n')
    assert shown.handler._live is not None
    shown.handler._live.refresh()
    shown.handler.close()
    assert "Pretraining run mine (0:00)  update 20, loss 2.500" in shown.text


def test_nothing_to_be_done_is_said() -> None:
    shown = Shown()
    shown.tell(None, "Nothing to be done (all requested files are present and up to date).")
    assert shown.text.startswith("Nothing to be done")


def test_a_dry_run_is_snakemakes_own() -> None:
    shown = Shown(dryrun=True)
    shown.tell(LogEvent.RUN_INFO, "Job stats:")
    assert shown.text == "Job stats:\n"
