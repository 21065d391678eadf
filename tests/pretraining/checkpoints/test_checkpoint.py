"""Saving and loading, with a stand-in for the engine: whole tensors in every process."""

import errno
import json
import logging
import os
import re
import resource
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Size, Tensor

from esm1b.errors import UserError
from esm1b.files import sha256_file
from esm1b.pretraining.checkpoints import checkpoint
from esm1b.pretraining.checkpoints.checkpoint import SaveError, load_newest, save, shares
from esm1b.pretraining.checkpoints.files import StoredFile, StoredState, set_newer_aside
from esm1b.pretraining.checkpoints.run_identity import check_fingerprint
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.engine.deepspeed_engine import Engine
from esm1b.pretraining.engine.zero_state import PARTS
from esm1b.pretraining.skipped_updates import SkippedUpdate
from tests.pretraining.worlds import gloo, in_world

ALONE = Place()
SHAPES = {
    "embed_tokens.weight": Size([33, 8]),
    "layers.0.fc1.weight": Size([24, 8]),
    "layers.0.fc1.bias": Size([24]),
    "lm_head.bias": Size([33]),
}
SKIPPED = [SkippedUpdate(update=2, epochs=[0, 0, 1], sequences=[5, 1, 7])]
FILES = [f"{part}-00001-of-00001.safetensors" for part in PARTS]
State = dict[str, dict[str, Tensor]]


class Holder(Engine):
    """Holds random tensors that depend on a seed, and has no network."""

    def __init__(self, seed: int = 0, shapes: dict[str, Size] = SHAPES) -> None:
        self.shapes = shapes
        generator = torch.Generator().manual_seed(seed)
        self.held: State = {
            part: {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
            for part in PARTS
        }
        self.steps = seed
        self.loss_scale: dict[str, float] | None = {"scale": 2.0**seed, "updates": seed}

    def tensors(self, part: str, names: Collection[str]) -> dict[str, Tensor]:
        return {name: self.held[part][name] for name in names}

    def load(
        self,
        read: Callable[[str, str], Tensor],
        *,
        adam_steps: int,
        scaler: Mapping[str, float] | None,
    ) -> None:
        self.held = {part: {name: read(part, name) for name in self.shapes} for part in PARTS}
        self.steps = adam_steps
        self.loss_scale = None if scaler is None else dict(scaler)

    def adam_steps(self) -> int:
        return self.steps

    def scaler(self) -> dict[str, float] | None:
        return self.loss_scale

    def equals(self, other: "Holder") -> bool:
        return (self.steps, self.loss_scale) == (other.steps, other.loss_scale) and all(
            torch.equal(tensor, other.held[part][name])
            for part, tensors in self.held.items()
            for name, tensor in tensors.items()
        )


def save_as(directory: Path, updates: int, place: Place = ALONE) -> Path:
    """Save a state that depends on `updates`."""
    return save(directory, Holder(updates), updates=updates, skipped=SKIPPED, place=place)


def loaded(directory: Path, place: Place = ALONE) -> tuple[StoredState | None, Holder]:
    holder = Holder(99)
    return load_newest(directory, holder, place=place), holder


def updates_loaded(directory: Path, place: Place = ALONE) -> int:
    """Load the newest checkpoint, check that it is what was saved, and return its updates."""
    state, holder = loaded(directory, place)
    assert state is not None
    assert (state.skipped, state.scaler) == (SKIPPED, holder.loss_scale)
    assert (directory / f"update-{state.updates:08d}").is_dir()
    assert holder.equals(Holder(state.updates))
    return state.updates


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with checkpoints after 2, 4 and 10 updates."""
    for updates in (2, 4, 10):
        save_as(tmp_path, updates)
    return tmp_path


def test_the_newest_is_loaded(directory: Path) -> None:
    assert names(directory) == ["update-00000002", "update-00000004", "update-00000010"]
    assert names(directory / "update-00000010") == sorted([*FILES, "state.json"])
    assert updates_loaded(directory) == 10


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


def test_nothing_to_load(tmp_path: Path) -> None:
    assert loaded(tmp_path)[0] is None
    assert loaded(tmp_path / "none")[0] is None


def test_one_that_is_there_and_whole_stays(directory: Path) -> None:
    before = (directory / "update-00000010" / "state.json").stat().st_ino
    assert save_as(directory, 10) == directory / "update-00000010"
    assert (directory / "update-00000010" / "state.json").stat().st_ino == before


def test_one_that_is_there_and_damaged_is_replaced(directory: Path) -> None:
    (directory / "update-00000010" / FILES[1]).unlink()
    save_as(directory, 10)
    assert updates_loaded(directory) == 10
    assert len(names(directory)) == 3


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["truncation", "bit flip", "deletion", "other file"])
def test_a_damaged_checkpoint_falls_back(
    directory: Path, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = directory / "update-00000010" / file
    content = path.read_bytes()
    if damage == "truncation":
        path.write_bytes(content[: len(content) // 2])
        reason = f"{path}: {len(content) // 2} bytes; expected {len(content)}"
    elif damage == "bit flip":
        middle = len(content) * 3 // 4
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes(flipped)
        reason = f"{path}: its SHA-256 is not the one in state.json"
    elif damage == "deletion":
        path.unlink()
        reason = f"{path}: No such file or directory"
    else:
        shutil.copy(directory / "update-00000004" / file, path)
        reason = f"{path}: its SHA-256 is not the one in state.json"
    with caplog.at_level(logging.WARNING):
        assert updates_loaded(directory) == 4
    assert caplog.messages == [
        f"{path.parent}: damaged, so the checkpoint before it is tried: {reason}"
    ]


@pytest.mark.parametrize("state", [None, b"", b"{}", b"[]", b'{"sha256": "", "state": {}}'])
def test_a_checkpoint_without_its_state_falls_back(directory: Path, state: bytes | None) -> None:
    path = directory / "update-00000010" / "state.json"
    path.unlink()
    if state is not None:
        path.write_bytes(state)
    assert updates_loaded(directory) == 4


def test_no_bit_of_the_state_file_is_unguarded(directory: Path) -> None:
    path = directory / "update-00000010" / "state.json"
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        bit = 1 << place % 8
        path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        assert updates_loaded(directory) == 4


def test_a_renamed_checkpoint_falls_back(directory: Path) -> None:
    (directory / "update-00000010").rename(directory / "update-00000011")
    assert updates_loaded(directory) == 4


def test_a_checkpoint_of_another_network_falls_back(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = Holder(shapes={**SHAPES, "lm_head.bias": Size([32])})
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(UserError, match="all 3 checkpoints are"),
    ):
        load_newest(directory, other, place=ALONE)
    assert "lm_head.bias is F32 (33,); expected F32 (32,)" in caplog.messages[0]
    fewer = Holder(shapes={name: SHAPES[name] for name in list(SHAPES)[:3]})
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(UserError, match="all 3 checkpoints are"),
    ):
        load_newest(directory, fewer, place=ALONE)
    assert "lm_head.bias of first_moments is missing, unknown or there twice" in caplog.messages[3]


def test_all_damaged(directory: Path) -> None:
    for path in directory.glob("update-*/weights*"):
        path.write_bytes(b"")
    with pytest.raises(UserError) as caught:
        loaded(directory)
    assert str(caught.value) == (
        f"{directory}: all 3 checkpoints are damaged; expected a whole one, or none to start from "
        "the beginning"
    )


def test_those_passed_over_make_room(directory: Path) -> None:
    (directory / "update-00000010" / "state.json").unlink()
    assert updates_loaded(directory) == 4
    set_newer_aside(directory, than=4)
    assert names(directory) == [
        "damaged-update-00000010",
        "update-00000002",
        "update-00000004",
    ]


def test_an_interrupted_save_is_never_loaded(directory: Path) -> None:
    shutil.copytree(directory / "update-00000010", directory / ".update-00000012.partial")
    assert updates_loaded(directory) == 10
    assert len(names(directory)) == 3


def test_a_checkpoint_of_another_run_is_refused(directory: Path) -> None:
    check_fingerprint(directory, {"seed": 1})
    save_as(directory, 12)
    (directory / "run.json").unlink()
    check_fingerprint(directory, {"seed": 2})
    with pytest.raises(UserError) as caught:
        loaded(directory)
    assert str(caught.value) == (
        f"{directory / 'update-00000012'}: holds checkpoints of another run: seed was 1 and is 2; "
        "expected the same data and recipe, or another directory"
    )


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


def test_shares_are_even_and_depend_on_sizes_alone() -> None:
    sizes = {"a": 3, "b": 5, "c": 4, "d": 1, "e": 1}
    assert shares(sizes, 2) == [["b", "d", "e"], ["c", "a"]]
    assert shares(dict(reversed(sizes.items())), 2) == shares(sizes, 2)
    assert shares({"a": 1}, 3) == [["a"], [], []]


@given(
    sizes=st.dictionaries(st.text(max_size=3), st.integers(0, 100), max_size=30),
    count=st.integers(1, 8),
)
def test_every_name_is_in_one_share_and_no_share_is_far_behind(
    sizes: dict[str, int], count: int
) -> None:
    divided = shares(sizes, count)
    assert len(divided) == count
    assert sorted(name for share in divided for name in share) == sorted(sizes)
    loads = [sum(sizes[name] for name in share) for share in divided]
    assert max(loads) - min(loads) <= max(sizes.values(), default=0)


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
        write_file = patch.object(checkpoint, "write_file", full) if is_last else nullcontext()
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
