import errno
from pathlib import Path
from typing import Any

import pytest

from esm1b.config import PretrainingConfig
from esm1b.pretraining.checkpoints import checkpoint, retention
from esm1b.pretraining.checkpoints.checkpoint import SaveError
from esm1b.pretraining.checkpoints.saver import Saver
from esm1b.pretraining.distributed.place import Place

RECIPE = PretrainingConfig(
    updates=100, checkpoint_interval=20, checkpoints_kept=2, milestone_interval=30
)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What stands for the disk: how many saves are to fail, and those that did not."""
    disk: dict[str, Any] = {"failing": 0, "saved": []}

    def save(directory: Path, engine: Any, *, updates: int, **others: Any) -> Path:
        if disk["failing"]:
            disk["failing"] -= 1
            raise SaveError(f"update {updates}: no space left")
        disk["saved"].append(updates)
        path = directory / f"update-{updates:08d}"
        path.mkdir(exist_ok=True)
        return path

    monkeypatch.setattr(checkpoint, "save", save)
    return disk


def saving(directory: Path) -> Saver:
    engine: Any = None  # what is saved is the disk's affair
    return Saver(directory, RECIPE, engine, Place())


def test_saves_are_due_at_intervals_at_milestones_and_at_the_end(tmp_path: Path) -> None:
    keeper = saving(tmp_path)
    due = [update for update in range(1, 101) if keeper.is_due(update)]
    assert due == [20, 30, 40, 60, 80, 90, 100]


def test_the_newest_and_the_milestones_stay(tmp_path: Path, disk: dict[str, Any]) -> None:
    keeper = saving(tmp_path)
    for update in (20, 30, 40, 60, 80):
        keeper.save(update, [])
    assert disk["saved"] == [20, 30, 40, 60, 80]
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [f"update-{update:08d}" for update in (30, 60, 80)]


def test_an_old_checkpoint_that_does_not_go_is_told_and_the_run_goes_on(
    tmp_path: Path,
    disk: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def busy(path: Path) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy", str(path))

    monkeypatch.setattr(retention, "remove", busy)
    keeper = saving(tmp_path)
    for update in (20, 40, 60):
        keeper.save(update, [])
    assert disk["saved"] == [20, 40, 60]
    assert caplog.messages == [
        f"an old checkpoint was not removed: {tmp_path}/update-00000020: Device or resource busy"
    ]


def test_a_save_that_fails_is_tried_again_soon(tmp_path: Path, disk: dict[str, Any]) -> None:
    keeper = saving(tmp_path)
    disk["failing"] = 1
    keeper.save(20, [])
    assert disk["saved"] == []
    assert [update for update in range(21, 31) if keeper.is_due(update)] == [22, 30]
    keeper.save(22, [])
    assert disk["saved"] == [22]
    assert not keeper.is_due(24)


def test_the_third_failure_in_a_row_ends_the_run(tmp_path: Path, disk: dict[str, Any]) -> None:
    keeper = saving(tmp_path)
    disk["failing"] = 3
    keeper.save(20, [])
    keeper.save(22, [])
    with pytest.raises(SaveError, match="update 24: no space left"):
        keeper.save(24, [])


def test_the_last_save_is_tried_again_at_once(tmp_path: Path, disk: dict[str, Any]) -> None:
    disk["failing"] = 2
    saving(tmp_path).save(100, [], is_last=True)
    assert disk["saved"] == [100]
    disk["failing"] = 3
    with pytest.raises(SaveError):
        saving(tmp_path).save(100, [], is_last=True)
