import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from esm1b.errors import UserError
from esm1b.pretraining.watch import find_run, watch

RUN = [
    {
        "update": update,
        "attempt": 1,
        "loss": 3.0 - update / 1000,
        "tokens_per_second": 1000.0,
    }
    for update in range(10, 1001, 10)
]
VALIDATION = {
    "update": 1000,
    "attempt": 1,
    "validation_loss": 2.0,
    "validation_perplexity": 7.389,
    "validation_mask_perplexity": 8.1,
}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    directory = tmp_path / "checkpoints" / "run"
    directory.mkdir(parents=True)
    lines = [*RUN, VALIDATION]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    attempts = [
        {"attempt": 1, "event": "started", "update": 0, "updates": 1000},
        {"attempt": 1, "event": "warning", "message": "update 7 was skipped"},
        {"attempt": 1, "event": "finished"},
    ]
    (directory / "attempts.jsonl").write_text("".join(json.dumps(a) + "\n" for a in attempts))
    return directory


def shown(directory: Path, *, terminal: bool) -> str:
    file = io.StringIO()
    watch(directory, Console(file=file, width=100, force_terminal=terminal))
    return file.getvalue()


def test_piped_it_is_shown_once_without_control_characters(checkpoints: Path) -> None:
    text = shown(checkpoints, terminal=False)
    assert "\x1b" not in text
    assert "update 1,000 of 1,000, loss 2.000, 1,000 tokens/s\n" in text
    assert "perplexity 7.389 (lowest 7.389), 8.100 at <mask>, update 1,000" in text
    assert "update 7 was skipped" in text
    assert "1: from update 0: finished" in text
    plot = [line for line in text.splitlines() if line.startswith("│")]
    assert len(plot) == 12
    assert plot[0].strip("│ 0123456789")  # the loss begins at the top left
    assert max(map(len, text.splitlines())) <= 100


def test_on_a_terminal_a_finished_run_ends_it(checkpoints: Path) -> None:
    assert "finished" in shown(checkpoints, terminal=True)


def test_a_run_is_found_by_directory_and_name(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_run(str(checkpoints)) == checkpoints
    assert find_run("run") == Path("checkpoints/run")
    (tmp_path / "results/other/training").mkdir(parents=True)
    (tmp_path / "results/other/training/metrics.jsonl").touch()
    assert find_run("other") == Path("results/other/training")
    with pytest.raises(
        UserError, match=r"nothing: no metrics\.jsonl or attempts\.jsonl; looked in"
    ):
        find_run("nothing")
