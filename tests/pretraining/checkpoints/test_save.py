"""Saving, with a stand-in for the engine: whole tensors in every process."""

import errno
import json
import os
import re
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from esm1b.files import sha256_file
from esm1b.pretraining.checkpoints import save
from esm1b.pretraining.checkpoints.files import StoredFile, write_file
from esm1b.pretraining.checkpoints.run_identity import check_fingerprint
from esm1b.pretraining.checkpoints.save import SaveError
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.engine.zero_state import PARTS
from tests.pretraining.checkpoints.saved import (
    FILES,
    Holder,
    begin,
    names,
    save_as,
    updates_loaded,
)
from tests.pretraining.worlds import gloo, in_world


def test_what_is_in_the_state_file(directory: Path) -> None:
    check_fingerprint(directory, {"seed": 1})
    path = save_as(directory, 12)
    state = json.loads((path / "state.json").read_text())["state"]
    assert state["updates"] == 12
    assert state["adam_steps"] == 12
    assert state["scaler"] == {"scale": 4096.0, "updates": 12}
    assert state["skipped"] == [{"update": 2, "epochs": [0, 0, 1], "sequences": [5, 1, 7]}]
    assert state["run"] == {"seed": 1}
    assert set(state["versions"]) == {"python", "esm1b", "torch", "deepspeed"}
    assert state["files"][FILES[0]] == {
        "part": "weights",
        "names": [
            "embed_tokens.weight",
            "layers.0.fc1.weight",
            "lm_head.bias",
            "layers.0.fc1.bias",
        ],
        "size": (path / FILES[0]).stat().st_size,
        "sha256": sha256_file(path / FILES[0]),
    }


def test_all_is_on_the_disk_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files, their entries, then the name that makes them count, and that."""
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def record(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        calls.append(re.sub(r"\.json\..*", ".json", str(path.relative_to(tmp_path))))
        fsync(descriptor)

    def rename_there(source: Path, target: Path) -> None:
        calls.append(f"rename to {target.name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(os, "rename", rename_there)
    save_as(tmp_path, 2)
    unfinished = ".update-00000002.partial"
    assert sorted(calls[:3]) == [f"{unfinished}/{name}" for name in sorted(FILES)]
    assert calls[3].startswith(f"{unfinished}/.state.json")
    assert calls[4:] == [unfinished, unfinished, "rename to update-00000002", "."]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Event:
    """A disk that is slow until the event is set."""
    is_fast = Event()

    def write(*arguments: Any) -> StoredFile:
        assert is_fast.wait(30)
        return write_file(*arguments)

    monkeypatch.setattr(save, "write_file", write)
    return is_fast


def test_what_is_saved_is_the_state_at_the_beginning(tmp_path: Path, disk: Event) -> None:
    holder = Holder(2)
    under_way = begin(tmp_path, holder)
    for tensors in holder.held.values():
        for tensor in tensors.values():
            tensor.add_(1)
    holder.steps = 3
    assert not under_way.is_written()
    assert names(tmp_path) == [".update-00000002.partial"]
    disk.set()
    under_way.wait()
    assert under_way.is_written()
    assert names(tmp_path) == [".update-00000002.partial"]
    under_way.commit()
    assert updates_loaded(tmp_path) == 2


def test_one_that_is_written_and_not_committed_never_counts(directory: Path) -> None:
    begin(directory, Holder(12)).wait()
    assert sorted(names(directory / ".update-00000012.partial")) == sorted(FILES)
    assert updates_loaded(directory) == 10
    assert len(names(directory)) == 3


def test_its_seconds_are_those_of_the_slowest_file_and_of_the_commit(
    tmp_path: Path, disk: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(save, "time", SimpleNamespace(monotonic=lambda: now[0]))
    under_way = begin(tmp_path, Holder(2))
    now[0] = 20
    disk.set()
    under_way.wait()
    now[0] = 500  # of updates
    assert under_way.commit() == 20


def test_one_that_is_there_and_whole_stays(directory: Path) -> None:
    before = (directory / "update-00000010" / "state.json").stat().st_ino
    assert save_as(directory, 10) == directory / "update-00000010"
    assert (directory / "update-00000010" / "state.json").stat().st_ino == before


def test_one_that_is_there_and_damaged_is_replaced(directory: Path) -> None:
    (directory / "update-00000010" / FILES[1]).unlink()
    save_as(directory, 10)
    assert updates_loaded(directory) == 10
    assert len(names(directory)) == 3


@contextmanager
def small_files() -> Iterator[None]:
    """Let the system refuse files of more than 1,000 bytes, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_save_that_fails_leaves_everything_as_it_was(directory: Path) -> None:
    with small_files(), pytest.raises(SaveError) as caught:
        save_as(directory, 12)
    path = directory / "update-00000012"
    assert str(caught.value).startswith(f"{path}: not saved: {directory}/.update-00000012.partial/")
    assert "File too large" in str(caught.value)
    assert len(names(directory)) == 3
    assert updates_loaded(directory) == 10
    save_as(directory, 12)
    assert updates_loaded(directory) == 12


def test_a_directory_that_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SaveError, match=r"update-00000001: not saved: .*/file: File exists"):
        save_as(tmp_path / "file", 1)


def saved_by_many(place: Place, directory: Path, updates: int) -> list[str]:
    with gloo(place):
        return names(save_as(directory, updates, place))


def failing_in_the_last(place: Place, directory: Path, before: Path) -> tuple[str, list[int]]:
    """Load what another world saved; save with a failure in the last process, then without."""
    found = []

    def full(path: Path, part: str, tensors: Mapping[str, Tensor]) -> StoredFile:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with gloo(place):
        found.append(updates_loaded(before, place))
        save_as(directory, 1, place)
        is_last = place.rank == place.processes - 1
        write_file = patch.object(save, "write_file", full) if is_last else nullcontext()
        with write_file, pytest.raises(SaveError) as caught:
            save_as(directory, 2, place)
        found.append(updates_loaded(directory, place))
        save_as(directory, 2, place)
        found.append(updates_loaded(directory, place))
        torch.distributed.barrier()
        if place.rank == 0:
            (next((directory / "update-00000002").glob("*-00003-of-00003*"))).write_bytes(b"")
        torch.distributed.barrier()
        found.append(updates_loaded(directory, place))
    return str(caught.value), found


def test_processes_share_the_work_and_fail_together(tmp_path: Path) -> None:
    files = in_world(2, saved_by_many, tmp_path / "two", 6)
    expected = [f"{part}-0000{n}-of-00002.safetensors" for part in PARTS for n in (1, 2)]
    assert files == [sorted([*expected, "state.json"])] * 2
    assert updates_loaded(tmp_path / "two") == 6
    results: list[Any] = in_world(3, failing_in_the_last, tmp_path / "three", tmp_path / "two")
    assert results[0] == results[1] == results[2]
    message, found = results[0]
    path = tmp_path / "three" / "update-00000002"
    partial = path.with_name(".update-00000002.partial")
    assert message == (
        f"{path}: not saved: process 3 of 3: {partial}/weights-00003-of-00003.safetensors: "
        "No space left on device"
    )
    assert found == [6, 1, 2, 1]
