import io
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.metrics.metrics_file import METRICS_FILE, read_metrics
from esm1b.pretraining.metrics.monitor import Monitor, name_log_lines


def lines(directory: Path) -> list[dict[str, float]]:
    text = (directory / METRICS_FILE).read_text()
    return [json.loads(line) for line in text.splitlines()]


def attempt(directory: Path, first: int, values: dict[int, float], *, number: int = 1) -> None:
    monitor = Monitor(directory, attempt=number, first=first, last=10, active=True)
    for update, loss in values.items():
        monitor.advance(update)
        monitor.write(update, {"loss": loss})
    monitor.close()


def test_lines_have_update_and_attempt(tmp_path: Path) -> None:
    attempt(tmp_path, 0, {1: 3.5, 2: 3.25})
    assert lines(tmp_path) == [
        {"update": 1, "attempt": 1, "loss": 3.5},
        {"update": 2, "attempt": 1, "loss": 3.25},
    ]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_the_latest_attempt_counts(tmp_path: Path) -> None:
    attempt(tmp_path, 0, {1: 3.5, 2: 3.25, 3: 3.0})
    attempt(tmp_path, 1, {2: 3.125, 3: 2.875}, number=2)
    assert len(lines(tmp_path)) == 5
    assert read_metrics(tmp_path / METRICS_FILE) == [
        {"update": 1, "attempt": 1, "loss": 3.5},
        {"update": 2, "attempt": 2, "loss": 3.125},
        {"update": 3, "attempt": 2, "loss": 2.875},
    ]


def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    attempt(tmp_path, 0, {1: 3.5})
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"update": 2, "attempt": 1, "lo')
    assert [line["update"] for line in read_metrics(tmp_path / METRICS_FILE)] == [1]
    attempt(tmp_path, 1, {2: 3.25}, number=2)
    assert read_metrics(tmp_path / METRICS_FILE) == [
        {"update": 1, "attempt": 1, "loss": 3.5},
        {"update": 2, "attempt": 2, "loss": 3.25},
    ]


def test_validation_is_a_line_of_its_own(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, attempt=1, first=0, last=10, active=True)
    monitor.write(5, {"loss": 3.0})
    monitor.write(5, {"validation_loss": 3.5})
    monitor.close()
    found = read_metrics(tmp_path / METRICS_FILE)
    assert sorted(tuple(line) for line in found) == [
        ("update", "attempt", "loss"),
        ("update", "attempt", "validation_loss"),
    ]


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, attempt=1, first=0, last=10, active=False)
    monitor.advance(1)
    monitor.write(1, {"loss": 3.0})
    monitor.close()
    assert list(tmp_path.iterdir()) == []


def test_plain_log_lines_where_there_is_no_terminal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    with caplog.at_level(logging.INFO):
        monitor = Monitor(
            tmp_path, attempt=1, first=100, last=1000, active=True, clock=lambda: now[0]
        )
        monitor.advance(101)
        monitor.write(101, {"loss": 3.14159, "gradient_norm": None})
        # 49 updates in 98 s, 850 of them are left
        now[0] = 98.0
        monitor.advance(150)
        monitor.write(150, {"loss": 2.5})
        monitor.close()
    assert caplog.messages == [
        "update 101 of 1000: loss=3.142",
        "update 150 of 1000 (28:20 left): loss=2.5",
    ]


def test_the_bar_of_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monitor = Monitor(tmp_path, attempt=1, first=100, last=1000, active=True)
    monitor.advance(110)
    monitor.write(110, {"loss": 2.5, "learning_rate": 0.1, "tokens_per_second": 1234.5})
    monitor.close()
    bar = capsys.readouterr().err
    assert "110/1000" in bar
    assert "loss=2.5, tokens_per_second=1234" in bar
    assert "learning_rate" not in bar


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, attempt=1, first=0, last=10, active=True)
    monitor.write(1, {"loss": float("nan"), "gradient_norm": float("inf"), "skipped": 1})
    monitor.close()
    assert (tmp_path / METRICS_FILE).read_text() == (
        '{"update": 1, "attempt": 1, "loss": null, "gradient_norm": null, "skipped": 1}\n'
    )


class FullDisk:
    """Stands for a file on a disk that has room for `room` bytes."""

    def __init__(self, path: Path, room: int) -> None:
        self.path = path
        self.room = room

    def seek(self, offset: int, whence: int) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def read(self, size: int) -> bytes:
        return self.path.read_bytes()[-size:]

    def write(self, data: bytes) -> int:
        if self.room == 0:
            raise OSError(28, "No space left on device")
        written = data[: self.room]
        self.room -= len(written)
        with self.path.open("ab") as file:
            file.write(written)
        return len(written)

    def close(self) -> None:
        pass


def test_a_full_disk_costs_lines_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monitor = Monitor(tmp_path, attempt=1, first=0, last=10, active=True)
    disk = FullDisk(tmp_path / METRICS_FILE, room=20)
    monitor._lines._file = disk  # type: ignore[assignment]  # stands for the file
    with caplog.at_level(logging.WARNING):
        for update in (1, 2, 3):
            monitor.write(update, {"loss": 3.5})
        disk.room = 1000
        monitor.write(4, {"loss": 3.25})
    monitor.close()
    assert caplog.messages == [
        f"{tmp_path}/metrics.jsonl: No space left on device; lines are missing from here on"
    ]
    assert read_metrics(tmp_path / METRICS_FILE) == [{"update": 4, "attempt": 1, "loss": 3.25}]


def test_a_board_that_fails_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monitor = Monitor(tmp_path, attempt=1, first=0, last=10, active=True)

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    board: Any = monitor._dashboards["TensorBoard"]
    board.add_scalar = fail  # stands for a full disk
    with caplog.at_level(logging.WARNING):
        monitor.write(1, {"loss": 3.5})
        monitor.write(2, {"loss": 3.25})
    monitor.close()
    assert caplog.messages == [
        "TensorBoard: No space left on device; this attempt continues without it"
    ]
    assert len(read_metrics(tmp_path / METRICS_FILE)) == 2


def test_lines_of_other_processes_begin_with_their_rank() -> None:
    def logged(rank: int) -> str:
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        root = logging.getLogger()
        before = root.handlers
        root.handlers = [handler]
        try:
            name_log_lines(Place(rank=rank, processes=4, port=1))
            logging.getLogger("esm1b").warning("first\nsecond")
        finally:
            root.handlers = before
        return stream.getvalue()

    assert logged(3) == "[3] WARNING first\n[3] second\n"
    assert logged(0) == "WARNING first\nsecond\n"
