import logging
import shutil
from pathlib import Path

import pytest
import torch

from esm1b.errors import UserError
from esm1b.pretraining.checkpoint import (
    Checkpoint,
    check_fingerprint,
    load_newest,
    remove_newer,
    remove_old,
    save,
)

PARTS = ("weights", "first_moments", "second_moments")


def checkpoint(updates: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(updates)
    return Checkpoint(
        updates=updates,
        tensors={
            part: {
                "embed_tokens.weight": torch.randn(33, 8, generator=generator),
                "lm_head.bias": torch.randn(33, generator=generator),
            }
            for part in PARTS
        },
    )


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def assert_equal(loaded: Checkpoint | None, expected: Checkpoint) -> None:
    assert loaded is not None
    assert loaded.updates == expected.updates
    for part in PARTS:
        assert loaded.tensors[part].keys() == expected.tensors[part].keys()
        for name, tensor in expected.tensors[part].items():
            assert torch.equal(loaded.tensors[part][name], tensor)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with checkpoints after 2, 4 and 10 updates."""
    for updates in (2, 4, 10):
        save(tmp_path, checkpoint(updates))
    return tmp_path


def test_the_newest_is_loaded(directory: Path) -> None:
    assert names(directory) == ["update-00000002", "update-00000004", "update-00000010"]
    assert names(directory / "update-00000010") == [
        ".esm1b",
        "first_moments.safetensors",
        "second_moments.safetensors",
        "state.json",
        "weights.safetensors",
    ]
    assert_equal(load_newest(directory), checkpoint(10))


def test_nothing_to_load(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    assert load_newest(tmp_path / "none") is None


def test_saving_twice_replaces(directory: Path) -> None:
    path = save(directory, checkpoint(10))
    assert path == directory / "update-00000010"
    assert_equal(load_newest(directory), checkpoint(10))
    assert len(names(directory)) == 3


@pytest.mark.parametrize("file", [f"{part}.safetensors" for part in PARTS])
@pytest.mark.parametrize("damage", ["truncation", "bit flip", "deletion", "other file"])
def test_a_damaged_checkpoint_falls_back(
    directory: Path, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = directory / "update-00000010" / file
    content = path.read_bytes()
    if damage == "truncation":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "bit flip":
        middle = len(content) * 3 // 4
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes(flipped)
    elif damage == "deletion":
        path.unlink()
    else:
        shutil.copy(directory / "update-00000004" / file, path)
    with caplog.at_level(logging.WARNING):
        assert_equal(load_newest(directory), checkpoint(4))
    assert len(caplog.records) == 1
    assert caplog.messages[0].startswith(f"{path.parent}: damaged, so the checkpoint before")


@pytest.mark.parametrize("state", [None, b"", b"{}", b"[]", b'{"updates": 10, "sha256": {}}'])
def test_a_checkpoint_without_its_state_falls_back(directory: Path, state: bytes | None) -> None:
    path = directory / "update-00000010" / "state.json"
    path.unlink()
    if state is not None:
        path.write_bytes(state)
    assert_equal(load_newest(directory), checkpoint(4))


def test_all_damaged(directory: Path) -> None:
    for path in directory.glob("update-*/weights.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(UserError) as caught:
        load_newest(directory)
    assert str(caught.value) == (
        f"{directory}: none of its 3 checkpoints is whole; expected one, or none at all to start "
        "from the beginning"
    )


def test_those_passed_over_make_room(directory: Path) -> None:
    (directory / "update-00000010" / "state.json").unlink()
    assert_equal(load_newest(directory), checkpoint(4))
    remove_newer(directory, than=4)
    assert names(directory) == ["update-00000002", "update-00000004"]


def test_an_interrupted_save_is_never_loaded(directory: Path) -> None:
    shutil.copytree(directory / "update-00000010", directory / ".update-00000012.partial")
    assert_equal(load_newest(directory), checkpoint(10))


def test_old_ones_are_removed(directory: Path) -> None:
    (directory / ".update-00000012.partial").mkdir()
    (directory / "metrics.jsonl").write_text("")
    remove_old(directory, keep=2)
    assert names(directory) == ["metrics.jsonl", "update-00000004", "update-00000010"]
    remove_old(directory, keep=2)
    assert names(directory) == ["metrics.jsonl", "update-00000004", "update-00000010"]


def test_another_run_is_refused(tmp_path: Path) -> None:
    run = {"seed": 1, "model.width": 64, "pretraining.adam_betas": [0.9, 0.999]}
    check_fingerprint(tmp_path, run)
    check_fingerprint(tmp_path, dict(reversed(run.items())))
    with pytest.raises(UserError) as caught:
        check_fingerprint(tmp_path, run | {"model.width": 32, "seed": 2})
    assert str(caught.value) == (
        f"{tmp_path}: holds checkpoints of another run: model.width was 64 and is 32; "
        "seed was 1 and is 2; expected the same data and recipe, or another directory"
    )
    with pytest.raises(UserError, match=r"model\.heads was None and is 4"):
        check_fingerprint(tmp_path, run | {"model.heads": 4})
    check_fingerprint(tmp_path, run)
