import os
import signal
import time
from collections.abc import Iterator

import pytest

from esm1b.errors import UserError
from esm1b.worker_pool import start_workers


class Adder:
    """Adds up what it gets; the state that a worker keeps."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.total = 0

    def add(self, value: int) -> tuple[int, int]:
        time.sleep(0.001 * (value % 3))
        self.total += value
        return value, os.getpid()

    def sum(self) -> int:
        return self.total

    def refuse(self, value: int) -> int:
        if value % 5 == 4:
            raise UserError(f"{value}: expected something else")
        return value

    def die(self, value: int) -> int:
        if value == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        if value == 7:
            os._exit(3)
        return value

    def die_later(self, value: int) -> int:
        if value == 10:
            time.sleep(0.5)  # until the other worker has done the one before
            os._exit(3)
        return value

    def fail_to_answer(self, value: int) -> Iterator[int]:
        return iter(lambda: value, 0)


class Unbuildable:
    def __init__(self, number: int) -> None:
        raise UserError(f"worker {number} refuses")

    def work(self, value: int) -> int:
        return value


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_the_order_of_the_tasks(workers: int) -> None:
    with start_workers(Adder, workers) as pool:
        results = list(pool.map(Adder.add, range(60)))
        assert [value for value, _ in results] == list(range(60))
        processes = {process for _, process in results}
        assert processes == {os.getpid()} if workers == 1 else len(processes) == workers
        assert sum(pool.each(Adder.sum)) == sum(range(60))
        assert list(pool.map(Adder.add, [])) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_failure_in_order_is_raised(workers: int) -> None:
    done: list[int] = []
    with (
        pytest.raises(UserError, match="4: expected something else") as caught,
        start_workers(Adder, workers) as pool,
    ):
        done.extend(pool.map(Adder.refuse, range(60)))
    assert done == [0, 1, 2, 3]
    if workers > 1:
        assert "in refuse" in caught.value.__notes__[0]  # where in the worker


def test_a_task_is_taken_when_that_a_window_before_has_been_yielded() -> None:
    taken: list[int] = []
    yielded: list[int] = []

    def tasks() -> Iterator[int]:
        for value in range(50):
            taken.append(value)
            assert len(taken) - len(yielded) <= window
            yield value

    with start_workers(Adder, 2) as pool:
        window = pool.window
        for value, _ in pool.map(Adder.add, tasks()):
            yielded.append(value)
    assert len(yielded) == 50


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (6, r"worker [01] died: SIGKILL, which is how a system that is out of memory ends"),
        (7, r"worker [01] died: exit status 3"),
    ],
)
def test_a_dead_worker_ends_the_work(start: int, message: str) -> None:
    with pytest.raises(ChildProcessError, match=message), start_workers(Adder, 2) as pool:
        list(pool.map(Adder.die, [start, 0, 0, 0, 0, 0]))


def test_a_worker_that_cannot_be_built_or_answer(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(UserError, match=r"worker [01] refuses"),
        start_workers(Unbuildable, 2) as pool,
    ):
        list(pool.map(Unbuildable.work, range(4)))
    with (
        pytest.raises(ChildProcessError, match="died: exit status 1"),
        start_workers(Adder, 2) as adders,
    ):
        list(adders.map(Adder.fail_to_answer, range(4)))
    assert "pickle" in capfd.readouterr().err


def test_large_tasks_and_large_results() -> None:
    with start_workers(Adder, 2) as pool:
        content = b"x" * (5 << 20)
        assert list(pool.map(same, [content] * 10)) == [content] * 10


def same(state: Adder, content: bytes) -> bytes:
    return content


def test_results_before_a_death_are_yielded() -> None:
    done: list[int] = []
    with pytest.raises(ChildProcessError), start_workers(Adder, 2) as pool:
        done.extend(pool.map(Adder.die_later, range(20)))
    assert done == [*range(10)]
