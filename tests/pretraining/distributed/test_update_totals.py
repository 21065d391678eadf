"""Real processes, forked from a server that has imported torch."""

import multiprocessing
import os
import time
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import pytest
import torch.distributed

from esm1b.pretraining.distributed.lost_peer import is_lost_peer
from esm1b.pretraining.distributed.update_totals import Agreement, Totals

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch.distributed", "esm1b.pretraining.distributed.update_totals"])
UPDATES = 5


def join(rank: int, processes: int, store: str) -> None:
    if processes == 1:
        torch.distributed.init_process_group(
            "gloo",
            store=torch.distributed.HashStore(),  # type: ignore[attr-defined]  # not in __all__
            rank=0,
            world_size=1,
        )
    else:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=processes
        )


def numbers(rank: int, update: int, *, asked_at: int) -> dict[str, Any]:
    return {
        "masked": 2**40 * (update + 1) + rank,
        "tokens": 10 * update + rank,
        "padded": 7,
        "stop": rank == 1 and update >= asked_at,
    }


def updates(rank: int, processes: int, store: str, answers: "Queue[Any]") -> None:
    """Go through updates as a run does; the process of rank 1 is asked to stop during update 2."""
    join(rank, processes, store)
    totals = []
    with Agreement() as agreement:
        agreement.start(**numbers(rank, 0, asked_at=3))
        for update in range(UPDATES):
            totals.append(agreement.finish())
            if totals[-1].stop:
                break
            if update + 1 < UPDATES:
                agreement.start(**numbers(rank, update + 1, asked_at=3))
            torch.distributed.all_reduce(torch.ones(1))  # the gradients
    answers.put(totals)
    torch.distributed.destroy_process_group()


def late(rank: int, processes: int, store: str, answers: "Queue[Any]") -> None:
    join(rank, processes, store)
    with Agreement(timeout_seconds=1) as agreement:
        agreement.start(**numbers(rank, 0, asked_at=9))
        agreement.finish()
        if rank == 1:
            time.sleep(4)
            os._exit(0)
        agreement.start(**numbers(rank, 1, asked_at=9))
        try:
            agreement.finish()
        except RuntimeError as error:
            answers.put(is_lost_peer(error))
            answers.close()
            answers.join_thread()
        os._exit(0)


def run(target: Any, processes: int, answering: int, folder: Path) -> list[Any]:
    answers = CONTEXT.Queue()
    members = [
        CONTEXT.Process(target=target, args=(rank, processes, str(folder / "store"), answers))
        for rank in range(processes)
    ]
    for member in members:
        member.start()
    try:
        return [answers.get(timeout=60) for _ in range(answering)]
    finally:
        for member in members:
            member.join(30)
            member.kill()


@pytest.mark.parametrize("processes", [2, 3])
def test_all_know_the_totals_and_stop_at_the_same_update(tmp_path: Path, processes: int) -> None:
    others = sum(range(processes))
    expected = [
        Totals(
            masked=processes * 2**40 * (update + 1) + others,
            tokens=processes * 10 * update + others,
            padded=processes * 7,
            stop=update == 3,
        )
        for update in range(4)
    ]
    assert run(updates, processes, processes, tmp_path) == [expected] * processes


def test_one_process(tmp_path: Path) -> None:
    (totals,) = run(updates, 1, 1, tmp_path)
    assert totals == [
        Totals(masked=2**40 * (update + 1), tokens=10 * update, padded=7, stop=False)
        for update in range(UPDATES)
    ]


def test_one_that_does_not_come_is_a_lost_peer(tmp_path: Path) -> None:
    assert run(late, 2, 1, tmp_path) == [True]
