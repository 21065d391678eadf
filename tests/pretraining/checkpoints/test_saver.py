import errno
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from esm1b.config import PretrainingConfig
from esm1b.errors import RunFailure, UserError
from esm1b.pretraining.checkpoints import saver
from esm1b.pretraining.checkpoints.files import remove_leftovers, set_newer_aside
from esm1b.pretraining.checkpoints.save import SaveError
from esm1b.pretraining.checkpoints.saver import (
    Saver,
    check_free_space,
    is_milestone,
    milestone_path,
    remove_old,
)
from esm1b.pretraining.distributed.place import Place

RECIPE = PretrainingConfig(
    updates=100, checkpoint_interval=20, checkpoints_kept=2, milestone_interval=30
)


class Disk:
    """Stands for the disk.

    Attributes:
        failing: number of saves that are to fail.
        saved: updates of those that did not.
        is_slow: True while no file gets written.
        events: what happened to saves, in order.
    """

    def __init__(self) -> None:
        self.failing = 0
        self.saved: list[int] = []
        self.is_slow = False
        self.events: list[str] = []

    def begin(self, directory: Path, engine: Any, *, updates: int, **others: Any) -> "OnDisk":
        self.events.append(f"begin {updates}")
        return OnDisk(self, directory, updates)


class OnDisk:
    def __init__(self, disk: Disk, directory: Path, updates: int) -> None:
        self._disk, self._directory, self._updates = disk, directory, updates

    def is_written(self) -> bool:
        return not self._disk.is_slow

    def wait(self) -> None:
        self._disk.events.append(f"wait {self._updates}")

    def commit(self) -> float:
        self._disk.events.append(f"commit {self._updates}")
        if self._disk.failing:
            self._disk.failing -= 1
            raise SaveError(f"update {self._updates}: no space left")
        self._disk.saved.append(self._updates)
        (self._directory / f"update-{self._updates:08d}").mkdir(exist_ok=True)
        return float(self._updates)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(saver, "Save", disk)
    return disk


def saving(directory: Path, minutes: float | None = None) -> Saver:
    engine: Any = None  # what is saved is the disk's affair
    return Saver(directory, RECIPE, engine, Place(), export=Path.mkdir, minutes=minutes)


def train(keeper: Saver, updates: Iterable[int]) -> list[int]:
    """Do updates as the trainer does; return those after which it saved."""
    saved = []
    for update in updates:
        if keeper.is_written():
            keeper.finish(update - 1)
        if keeper.is_due(update):
            saved.append(update)
            keeper.save(update, [], is_last=update == RECIPE.updates)
    return saved


def test_saves_are_due_at_intervals_at_milestones_and_at_the_end(
    tmp_path: Path, disk: Disk
) -> None:
    assert train(saving(tmp_path), range(1, 101)) == [20, 30, 40, 60, 80, 90, 100]
    assert disk.saved == [20, 30, 40, 60, 80, 90, 100]


def test_milestones_and_the_last_are_waited_for(tmp_path: Path, disk: Disk) -> None:
    keeper = saving(tmp_path)
    keeper.save(20, [])
    assert disk.events == ["begin 20"]
    keeper.save(30, [])
    assert disk.events[1:] == ["commit 20", "begin 30", "commit 30"]
    keeper.save(35, [], is_last=True)
    assert disk.events[4:] == ["begin 35", "commit 35"]


def test_one_that_falls_due_while_another_is_written_follows_it(tmp_path: Path, disk: Disk) -> None:
    keeper = saving(tmp_path)
    keeper.recipe = RECIPE.model_copy(update={"milestone_interval": None})
    disk.is_slow = True
    assert train(keeper, range(31, 67)) == [40]  # and not 60
    disk.is_slow = False
    assert train(keeper, range(67, 80)) == [67]
    assert disk.events == ["begin 40", "commit 40", "begin 67", "commit 67"]


def test_the_newest_and_the_milestones_stay(tmp_path: Path, disk: Disk) -> None:
    keeper = saving(tmp_path)
    with keeper.settled():
        train(keeper, range(1, 82))
    assert disk.saved == [20, 30, 40, 60, 80]
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [f"update-{update:08d}" for update in (30, 60, 80)]


def test_an_old_checkpoint_that_does_not_go_is_told_and_the_run_goes_on(
    tmp_path: Path,
    disk: Disk,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def busy(path: Path) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy", str(path))

    monkeypatch.setattr(saver, "remove", busy)
    keeper = saving(tmp_path)
    for update in (20, 40, 60):
        keeper.save(update, [])
        with keeper.settled():
            keeper.finish(update)
    assert disk.saved == [20, 40, 60]
    assert caplog.messages == [
        f"an old checkpoint was not removed: {tmp_path}/update-00000020: Device or resource busy"
    ]


def test_a_save_that_fails_is_tried_again_soon(tmp_path: Path, disk: Disk) -> None:
    keeper = saving(tmp_path)
    disk.failing = 1
    assert train(keeper, range(10, 29)) == [20, 22]  # learnt after 20, a tenth of 20 later
    assert disk.saved == [22]
    assert train(keeper, range(29, 35)) == [30]


def test_the_third_failure_in_a_row_ends_the_run(tmp_path: Path, disk: Disk) -> None:
    keeper = saving(tmp_path)
    disk.failing = 3
    with pytest.raises(SaveError, match="update 24: no space left"):
        train(keeper, range(10, 29))


def test_the_last_save_is_tried_again_at_once(tmp_path: Path, disk: Disk) -> None:
    disk.failing = 2
    saving(tmp_path).save(100, [], is_last=True)
    assert disk.saved == [100]
    disk.failing = 3
    with pytest.raises(SaveError):
        saving(tmp_path).save(100, [], is_last=True)


def test_a_failure_that_is_learnt_at_the_last_save_counts(tmp_path: Path, disk: Disk) -> None:
    keeper = saving(tmp_path)
    keeper.save(80, [])
    disk.failing = 3
    with pytest.raises(SaveError):
        keeper.save(100, [], is_last=True)
    assert disk.events == ["begin 80", "commit 80", *["begin 100", "commit 100"] * 2]


def test_the_clock_asks_once_for_each_save(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(saver, "time", SimpleNamespace(monotonic=lambda: now[0]))
    keeper = saving(tmp_path, minutes=5)
    now[0] = 299
    assert not keeper.is_time()
    now[0] = 300
    assert keeper.is_time()
    assert not keeper.is_time()  # the others learn of it one update later
    assert keeper.is_due(7, is_asked=True)
    keeper.save(7, [])
    disk.is_slow = True
    now[0] = 700
    assert not keeper.is_time()  # one is under way
    assert not keeper.is_due(8, is_asked=True)
    keeper.finish(8)
    assert keeper.is_time()
    assert not saving(tmp_path).is_time()


def test_the_longest_save_is_kept(tmp_path: Path, disk: Disk) -> None:
    keeper = saving(tmp_path)
    assert keeper.seconds is None
    keeper.save(40, [], is_last=True)
    keeper.save(20, [], is_last=True)
    assert keeper.seconds == 40.0


def test_a_failure_of_all_finishes_the_save_first(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = saving(tmp_path)
    keeper.save(20, [])
    with pytest.raises(RunFailure, match="a spike"), keeper.settled():
        raise RunFailure("a spike")
    assert disk.saved == [20]
    disk.failing = 3
    keeper._failures = 2
    keeper.save(40, [])
    with pytest.raises(RunFailure, match="a spike"), keeper.settled():
        raise RunFailure("a spike")
    assert caplog.messages == ["update 40: no space left"]


def test_another_error_leaves_it_unfinished_and_waits_for_the_writers(
    tmp_path: Path, disk: Disk
) -> None:
    keeper = saving(tmp_path)
    keeper.save(20, [])
    with pytest.raises(ConnectionError), keeper.settled():
        raise ConnectionError("a process is gone")
    assert disk.events == ["begin 20", "wait 20"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for updates in (100, 200, 250, 300, 350, 100_000_000):
        (tmp_path / f"update-{updates:08d}").mkdir()
        (tmp_path / f"update-{updates:08d}" / "state.json").touch()
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / ".update-00000400.partial").mkdir()
    return tmp_path


def numbers(directory: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("update-")) for path in directory.glob("update-*"))


def test_the_newest_stay(directory: Path) -> None:
    remove_old(directory, keep=2, every=None)
    assert numbers(directory) == [350, 100_000_000]
    remove_old(directory, keep=2, every=None)
    assert numbers(directory) == [350, 100_000_000]
    assert (directory / "metrics.jsonl").exists()


def test_every_so_many_stay_too(directory: Path) -> None:
    remove_old(directory, keep=1, every=100)
    assert numbers(directory) == [100, 200, 300, 100_000_000]


def test_a_milestone_stays_when_others_are_to_be_milestones(directory: Path) -> None:
    milestone_path(directory, 250).mkdir(parents=True)
    remove_old(directory, keep=1, every=100)
    assert numbers(directory) == [100, 200, 250, 300, 100_000_000]
    remove_old(directory, keep=1, every=None)
    assert numbers(directory) == [250, 100_000_000]


def test_a_count_of_zero_removes_nothing(directory: Path) -> None:
    remove_old(directory, keep=0, every=None)
    assert len(numbers(directory)) == 6


def test_newer_ones_are_set_aside_and_not_lost(directory: Path) -> None:
    before = numbers(directory)
    set_newer_aside(directory, than=250)
    assert numbers(directory) == [100, 200, 250]
    aside = sorted(path.name for path in directory.glob("damaged-*"))
    assert aside == [f"damaged-update-{number:08d}" for number in before if number > 250]
    set_newer_aside(directory, than=250)
    assert sorted(path.name for path in directory.glob("damaged-*")) == aside


def test_the_beginning_is_no_milestone() -> None:
    assert [updates for updates in range(0, 31, 5) if is_milestone(updates, 10)] == [10, 20, 30]
    assert not is_milestone(10, None)


def test_leftovers_go(directory: Path) -> None:
    remove_leftovers(directory)
    assert not list(directory.glob(".*"))
    assert len(numbers(directory)) == 6


def test_room_for_the_checkpoints_to_come(directory: Path) -> None:
    check_free_space(directory, PretrainingConfig(checkpoints_kept=6), parameters=1000)
    with pytest.raises(UserError) as caught:
        check_free_space(directory, PretrainingConfig(checkpoints_kept=8), parameters=10**15)
    message = str(caught.value)
    assert message.startswith(f"{directory}: ")
    assert message.endswith(
        " bytes are free; expected 36,000,000,003,145,728 for 3 more checkpoints of "
        "12,000,000,001,048,576 bytes, or fewer pretraining.checkpoints_kept"
    )
    two = PretrainingConfig(checkpoints_kept=2)
    with pytest.raises(UserError, match="for 1 more checkpoints"):
        check_free_space(directory, two, parameters=10**15)
    with pytest.raises(UserError, match="for 2 more checkpoints"):
        check_free_space(directory, two, parameters=10**15, has_mirror=True)


def test_missing_room_for_milestones_is_told(
    directory: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 100 * 2**20
    usage = shutil._ntuple_diskusage(free, 0, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    # a checkpoint is 12,000,000 + 2^20 bytes, a milestone 4,000,000 more
    recipe = PretrainingConfig(checkpoints_kept=6, milestone_interval=10**8, updates=5 * 10**8)
    check_free_space(directory, recipe, parameters=10**6)
    assert caplog.messages == []
    longer = recipe.model_copy(update={"updates": 8 * 10**8})
    check_free_space(directory, longer, parameters=10**6)
    # the newest is the first milestone, 5 others are there: 2 more checkpoints and 7 milestones
    needed = 2 * (12_000_000 + 2**20) + 7 * (16_000_000 + 2**20)
    assert needed == 145_437_184
    assert caplog.messages == [
        f"{directory}: 104,857,600 bytes are free, and 145,437,184 needed for the 7 milestones to "
        "come; make room, or raise pretraining.milestone_interval"
    ]
