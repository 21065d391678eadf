"""Processes that share out work and never outlive or stall the one that started them."""

import gc
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar

import pyarrow as pa

from esm1b.freed_memory import LARGEST_KEPT, keep_freed_memory

State = TypeVar("State")
Task = TypeVar("Task")
Result = TypeVar("Result")

# The task that a worker works on, and one at hand for when it is done.
_TASKS_AHEAD: Final = 2
# Tasks per worker that are under way, or done before their turn to be yielded.
_WINDOW: Final = 4
# Ctrl-C in a terminal, and what a scheduler sends, reach all processes of a job.
_SIGNALS_OF_JOBS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_KEPT_BYTES: Final = 4 * LARGEST_KEPT


@contextmanager
def start_workers(build: Callable[[int], State], count: int) -> Iterator["WorkerPool[State]"]:
    """Start worker processes, which end with the block and at once when this process dies.

    With one worker everything runs in this process.

    `build` is called in each worker with its number, from 0, and returns its state. Like everything
    that is sent to workers it must be picklable.
    """
    workers: list[_Worker] = []
    try:
        for number in range(count if count > 1 else 0):
            workers.append(_Worker(build, number))
        yield WorkerPool(workers, None if workers else build(0))
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.connection.close()


class WorkerPool(Generic[State]):
    """Runs functions in the workers of `start_workers`, each of which keeps a state of its own.

    A worker that dies ends the work with `ChildProcessError`.

    Attributes:
        has_processes: True if the workers are other processes than this one.
        window: most tasks in flight: before `map` takes task k it has yielded the result of task
            k - window.
    """

    def __init__(self, workers: Sequence["_Worker"], local: State | None) -> None:
        self._workers = workers
        self._local = local
        self._done: dict[int, tuple[Any, Exception | None]] = {}
        self.has_processes = bool(workers)
        self.window = _WINDOW * max(1, len(workers))

    def map(
        self, function: Callable[[State, Task], Result], tasks: Iterable[Task]
    ) -> Iterator[Result]:
        """Yield `function(state, task)` for each task, in the order of the tasks.

        Tasks are taken from `tasks` as workers become free; each goes to any free worker.

        Raises:
            ChildProcessError: a worker died; what was done of the tasks before its own is yielded
                first.
            Exception: what `function` raised for the first task that failed.
        """
        if self._local is not None:
            for task in tasks:
                yield function(self._local, task)
            return
        following = sent = 0
        try:
            for task in tasks:
                while (worker := min(self._workers, key=_Worker.load)).load() == _TASKS_AHEAD:
                    self._receive()
                worker.send(sent, function, task)
                sent += 1
                self._receive(timeout=0)
                while following in self._done or sent - following == self.window:
                    yield self._result(following)
                    following += 1
            while following < sent:
                yield self._result(following)
                following += 1
        except ChildProcessError:
            while following in self._done:
                yield self._result(following)
                following += 1
            raise

    def each(self, function: Callable[[State], Result]) -> list[Result]:
        """Return `function(state)` of every worker."""
        if self._local is not None:
            return [function(self._local)]
        for number, worker in enumerate(self._workers):
            worker.send(number, function)
        return [self._result(number) for number in range(len(self._workers))]

    def _result(self, number: int) -> Any:
        while number not in self._done:
            self._receive()
        result, error = self._done.pop(number)
        if error is not None:
            raise error
        return result

    def _receive(self, timeout: float | None = None) -> None:
        """Receive the results that are ready; without `timeout` wait for one."""
        busy = {worker.connection: worker for worker in self._workers if worker.load()}
        death: ChildProcessError | None = None
        # a worker's end of the connection closes when it dies
        for connection in wait(list(busy), timeout):
            try:
                number, result = busy[connection].receive()  # type: ignore[index]  # a Connection
            except ChildProcessError as error:
                death = error
            else:
                self._done[number] = result
        if death is not None:
            raise death


class _Worker:
    """One worker process, as the pool sees it."""

    def __init__(self, build: Callable[[int], Any], number: int) -> None:
        # Arrow's threads do not survive a fork
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_work, args=(theirs, build, number), daemon=True, name=f"worker {number}"
        )
        self.process.start()
        theirs.close()  # or its end would not close with the worker
        self._tasks: deque[int] = deque()

    def load(self) -> int:
        """Return the number of tasks sent and not yet done."""
        return len(self._tasks)

    def send(self, number: int, function: Callable[..., Any], *arguments: Any) -> None:
        try:
            self.connection.send((function, arguments))
        except (BrokenPipeError, ConnectionResetError):
            raise self._death() from None
        self._tasks.append(number)

    def receive(self) -> tuple[int, Any]:
        try:
            result = self.connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._death() from None
        return self._tasks.popleft(), result

    def _death(self) -> ChildProcessError:
        self.process.join(timeout=10)
        code = self.process.exitcode or 0
        how = f"exit status {code}"
        if code < 0:
            how = signal.Signals(-code).name
            if how == "SIGKILL":
                how += ", which is how a system that is out of memory ends processes"
        return ChildProcessError(f"{self.process.name} died: {how}")


def _work(connection: Connection, build: Callable[[int], Any], number: int) -> None:
    """Do the tasks of a worker process."""
    for number_of_signal in _SIGNALS_OF_JOBS:  # the process that started this one deals with them
        signal.signal(number_of_signal, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pa.set_memory_pool(pa.system_memory_pool())  # that of the C library
    keep_freed_memory(_KEPT_BYTES)
    gc.freeze()  # what was imported stays, so the collector need not look at it again
    tasks: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
    # a thread takes tasks, or both processes could wait for each other, each with much to send
    threading.Thread(target=_take_tasks, args=(connection, tasks), daemon=True).start()
    state: Any = None
    result: tuple[Any, Exception | None]
    with suppress(ConnectionResetError, BrokenPipeError):  # no parent
        while (task := tasks.get()) is not None:
            function, arguments = task
            try:
                if state is None:
                    state = build(number)
                result = function(state, *arguments), None
            except Exception as error:
                error.add_note("".join(traceback.format_exception(error)))
                result = None, error
            del task, arguments  # or their memory is held while the next task is awaited
            connection.send(result)
            del result


def _take_tasks(connection: Connection, tasks: SimpleQueue[Any]) -> None:
    try:
        while True:
            tasks.put(connection.recv())
    except (EOFError, ConnectionResetError):  # no more tasks, or no parent
        pass
    finally:
        tasks.put(None)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # true of a worker
    parent.join()
    os._exit(1)
