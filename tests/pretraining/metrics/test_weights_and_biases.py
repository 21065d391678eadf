import importlib.machinery
import logging
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from esm1b.errors import UserError
from esm1b.pretraining.metrics import weights_and_biases
from esm1b.pretraining.metrics.metrics_file import METRICS_FILE
from esm1b.pretraining.metrics.monitor import Monitor
from esm1b.pretraining.metrics.weights_and_biases import WeightsAndBiases, check_installed


class UsageError(Exception):
    """As wandb's own: nobody is logged in, for instance."""


class FakeRun:
    def __init__(self, **options: Any) -> None:
        self.options = options
        self.lines: list[dict[str, Any]] = []
        self.axes: dict[str, str] = {}
        self.finished = False
        self.failure: Exception | None = None
        self.block = threading.Event()
        self.block.set()

    def define_metric(self, name: str, *, step_metric: str) -> None:
        self.axes[name] = step_metric

    def log(self, line: dict[str, Any]) -> None:
        if self.failure is not None:
            raise self.failure
        self.lines.append(line)

    def finish(self) -> None:
        self.block.wait()
        self.finished = True


class FakePackage:
    """Stands for the package wandb, which is no dependency."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs: list[FakeRun] = []
        self.failure: Exception | None = None
        module: Any = ModuleType("wandb")
        module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        module.init = self.init
        module.errors = SimpleNamespace(UsageError=UsageError)
        monkeypatch.setitem(sys.modules, "wandb", module)

    def init(self, **options: Any) -> FakeRun:
        if self.failure is not None:
            raise self.failure
        self.runs.append(FakeRun(**options))
        return self.runs[-1]


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> FakePackage:
    return FakePackage(monkeypatch)


def monitor_of(directory: Path, update: int, project: str = "proteins") -> Monitor:
    return Monitor(
        directory, attempt=1, first=update - 1, last=10, active=True, wandb_project=project
    )


def attempt(directory: Path, update: int, project: str = "proteins") -> None:
    monitor = monitor_of(directory, update, project)
    monitor.write(update, {"loss": 3.5, "gradient_norm": None})
    monitor.close()


def test_attempts_go_on_with_one_run(tmp_path: Path, package: FakePackage) -> None:
    directory = tmp_path / "checkpoints"
    directory.mkdir()
    attempt(directory, 1)
    attempt(directory, 2)
    first, second = package.runs
    assert first.options == {
        "project": "proteins",
        "id": first.options["id"],
        "name": "checkpoints",
        "dir": str(directory),
        "resume": "allow",
        "settings": {"init_timeout": 30},
    }
    assert len(first.options["id"]) == 16
    assert second.options == first.options
    assert first.lines == [{"update": 1, "loss": 3.5}]
    assert second.lines == [{"update": 2, "loss": 3.5}]
    assert first.axes == {"*": "update"}
    assert first.finished
    assert second.finished


def test_another_project_has_another_run(tmp_path: Path, package: FakePackage) -> None:
    attempt(tmp_path, 1)
    attempt(tmp_path, 2, project="others")
    attempt(tmp_path, 3, project="others")
    ids = [run.options["id"] for run in package.runs]
    assert ids[0] != ids[1] == ids[2]


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError) as caught:
        attempt(tmp_path, 1)
    assert str(caught.value) == (
        "Weights & Biases project 'proteins': the package wandb is not installed; expected the "
        "extra: pip install 'esm1b[wandb]'"
    )
    assert list(tmp_path.iterdir()) == []


def test_with_the_package(package: FakePackage) -> None:
    check_installed("proteins")
    assert package.runs == []


def test_nobody_is_logged_in(tmp_path: Path, package: FakePackage) -> None:
    package.failure = UsageError("No API key configured.\nUse `wandb login` to log in.")
    with pytest.raises(UserError) as caught:
        attempt(tmp_path, 1)
    assert str(caught.value) == (
        "Weights & Biases project 'proteins': No API key configured. Use `wandb login` to log in."
    )


def test_a_server_that_does_not_answer_ends_no_run(
    tmp_path: Path, package: FakePackage, caplog: pytest.LogCaptureFixture
) -> None:
    package.failure = TimeoutError("no answer")
    with caplog.at_level(logging.WARNING):
        attempt(tmp_path, 1)
    assert caplog.messages == ["Weights & Biases: no answer; this attempt continues without it"]
    assert (tmp_path / METRICS_FILE).read_text().count("\n") == 1


def test_a_connection_that_breaks_ends_no_run(
    tmp_path: Path, package: FakePackage, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        monitor = monitor_of(tmp_path, 1)
        package.runs[0].failure = ConnectionError("gone")
        monitor.write(1, {"loss": 3.5})
        monitor.write(2, {"loss": 3.5})
        monitor.close()
    assert caplog.messages == ["Weights & Biases: gone; this attempt continues without it"]
    assert package.runs[0].lines == []
    assert (tmp_path / METRICS_FILE).read_text().count("\n") == 2


def test_what_cannot_be_sent_holds_nobody_up(
    tmp_path: Path,
    package: FakePackage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(weights_and_biases, "_FINISH_SECONDS", 0.01)
    run = WeightsAndBiases(tmp_path, "proteins")
    package.runs[0].block.clear()
    with caplog.at_level(logging.WARNING):
        run.close()
    assert caplog.messages == [
        "Weights & Biases: not all is sent; wandb sync sends what is missing"
    ]
    package.runs[0].block.set()
