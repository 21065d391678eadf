import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed

from esm1b.errors import RunFailure, StoppedForGood, UserError
from esm1b.pretraining.distributed.collectives import (
    ActionError,
    Agreement,
    Totals,
    everywhere,
    gathered,
    on_first,
)
from esm1b.pretraining.distributed.liveness import is_lost_peer
from esm1b.pretraining.distributed.place import Place
from tests.pretraining.distributed.forked import Forked, join_gloo, wait_for

ALONE = Place()
UPDATES = 5


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
    for failing in (
        {1: ValueError("two\nlines")},
        {0: OSError(), 1: UserError("a key")},
        {0: StoppedForGood("twice")},
    ):
        try:
            everywhere(lambda failing=failing: fail_in(failing, place), place)  # type: ignore[misc]  # mypy takes the default for an argument
        except (UserError, RunFailure) as error:
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
        ("StoppedForGood", "twice"),
    ]
    with Forked(tmp_path, 2, visit) as run:
        run.release()
        assert run.returned() == [expected, expected]


def numbers(rank: int, update: int, *, asked_at: int) -> dict[str, Any]:
    return {
        "masked": 2**40 * (update + 1) + rank,
        "tokens": 10 * update + rank,
        "padded": 7,
        "stop": rank == 1 and update >= asked_at,
        "save": rank == 0 and update == 1,
        "is_written": update > rank,
    }


def updates(place: Place, folder: Path) -> list[Totals]:
    """Go through updates as a run does; the process of rank 1 is asked to stop during update 2."""
    join_gloo(place)
    totals = []
    with Agreement.open() as agreement:
        agreement.start(**numbers(place.rank, 0, asked_at=3))
        for update in range(UPDATES):
            totals.append(agreement.finish())
            if totals[-1].stop:
                break
            if update + 1 < UPDATES:
                agreement.start(**numbers(place.rank, update + 1, asked_at=3))
            torch.distributed.all_reduce(torch.ones(1))  # the gradients
    torch.distributed.destroy_process_group()
    return totals


def late(place: Place, folder: Path) -> None:
    """Do not come to the second update, as rank 1; as rank 0, write whether that is a lost peer."""
    join_gloo(place)
    with Agreement.open(timeout_seconds=1) as agreement:
        agreement.start(**numbers(place.rank, 0, asked_at=9))
        agreement.finish()
        if place.rank == 1:
            wait_for(folder / "answer")
        else:
            agreement.start(**numbers(place.rank, 1, asked_at=9))
            with pytest.raises(RuntimeError) as caught:
                agreement.finish()
            (folder / "answer").write_text(str(is_lost_peer(caught.value)))
        os._exit(0)


@pytest.mark.parametrize("processes", [2, 3])
def test_all_know_the_totals_and_stop_at_the_same_update(tmp_path: Path, processes: int) -> None:
    others = sum(range(processes))
    expected = [
        Totals(
            masked=processes * 2**40 * (update + 1) + others,
            tokens=processes * 10 * update + others,
            padded=processes * 7,
            stop=update == 3,
            save=update == 1,
            shares_written=min(update, processes),
        )
        for update in range(4)
    ]
    with Forked(tmp_path, processes, updates) as run:
        run.release()
        assert run.returned() == [expected] * processes


def test_one_process(tmp_path: Path) -> None:
    with Forked(tmp_path, 1, updates) as run:
        run.release()
        assert run.returned() == [
            [
                Totals(
                    masked=2**40 * (update + 1),
                    tokens=10 * update,
                    padded=7,
                    stop=False,
                    save=update == 1,
                    shares_written=min(update, 1),
                )
                for update in range(UPDATES)
            ]
        ]


def test_one_that_does_not_come_is_a_lost_peer(tmp_path: Path) -> None:
    with Forked(tmp_path, 2, late) as run:
        run.release()
        assert run.statuses() == [0, 0]
        assert (tmp_path / "answer").read_text() == "True"
