"""Loading, with a stand-in for the engine: whole tensors in every process."""

import logging
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Size

from esm1b.errors import UserError
from esm1b.pretraining.checkpoints.checkpoint import load_newest, shares
from esm1b.pretraining.checkpoints.files import set_newer_aside
from esm1b.pretraining.checkpoints.run_identity import check_fingerprint
from tests.pretraining.checkpoints.saved import (
    ALONE,
    FILES,
    SHAPES,
    Holder,
    loaded,
    names,
    save_as,
    updates_loaded,
)


def test_the_newest_is_loaded(directory: Path) -> None:
    assert names(directory) == ["update-00000002", "update-00000004", "update-00000010"]
    assert names(directory / "update-00000010") == sorted([*FILES, "state.json"])
    assert updates_loaded(directory) == 10


def test_nothing_to_load(tmp_path: Path) -> None:
    assert loaded(tmp_path)[0] is None
    assert loaded(tmp_path / "none")[0] is None


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
