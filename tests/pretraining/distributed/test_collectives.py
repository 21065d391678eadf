from pathlib import Path

import pytest
import torch.distributed

from esm1b.errors import UserError
from esm1b.pretraining.distributed.collectives import (
    ActionError,
    everywhere,
    gathered,
    on_first,
)
from esm1b.pretraining.distributed.place import Place
from tests.pretraining.distributed.forked import Forked, join_gloo

ALONE = Place()


def test_one_process_alone() -> None:
    assert gathered("mine", ALONE) == ["mine"]
    assert everywhere(lambda: 3, ALONE) == [3]
    assert on_first(lambda: 4, ALONE) == 4


def test_errors_of_one_process_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^the key is wrong$"):
        on_first(lambda: fail(UserError("the key is wrong")), ALONE)
    with pytest.raises(ActionError) as caught:
        everywhere((tmp_path / "none").read_bytes, ALONE)
    assert str(caught.value) == f"{tmp_path / 'none'}: No such file or directory"
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(ActionError, match=r"^KeyError$"):
        everywhere(lambda: fail(KeyError()), ALONE)


def fail(error: Exception) -> None:
    raise error


def visit(place: Place, folder: Path) -> list[object]:
    """Return what a process sees when one, another or both fail."""
    join_gloo(place)
    seen: list[object] = [gathered(place.rank, place), on_first(lambda: f"of {place.rank}", place)]
    for failing in ({1: ValueError("two\nlines")}, {0: OSError(), 1: UserError("a key")}):
        try:
            everywhere(lambda failing=failing: fail_in(failing, place), place)  # type: ignore[misc]  # mypy takes the default for an argument
        except (UserError, ActionError) as error:
            seen.append((type(error).__name__, str(error)))
    torch.distributed.destroy_process_group()
    return seen


def fail_in(failing: dict[int, Exception], place: Place) -> None:
    if place.rank in failing:
        raise failing[place.rank]


def test_two_processes_fail_together(tmp_path: Path) -> None:
    expected = [
        [0, 1],
        "of 0",
        ("ActionError", "process 2 of 2: two lines"),
        ("SharedUserError", "a key"),
    ]
    with Forked(tmp_path, 2, visit) as run:
        run.release()
        assert run.returned() == [expected, expected]
