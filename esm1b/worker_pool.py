"""Processes that share out work and never outlive or stall the one that started them."""

import ctypes
import gc
import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

import pyarrow as pa

LARGEST_KEPT: Final = 32 << 20
"""Memory of more bytes than this at once is returned when freed; the most that glibc takes."""

State = TypeVar("State")
Task = TypeVar("Task")
Result = TypeVar("Result")

# One that a worker works on and one that it has at hand when it is done.
_TASKS_AHEAD: Final = 2
# Tasks per worker that may be done before their turn to be yielded comes, or under way.
_WINDOW: Final = 4
# mallopt of glibc (its malloc.h): above which size memory comes from and goes back to the system
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


class WorkerPool(Generic[State]):
    """Runs functions in worker processes, each of which keeps a state of its own.

    With one worker everything runs in this process. A worker that dies ends the work with
    `ChildProcessError`. Workers end with the block of the `with` statement, whatever ends it, and
    at once when this process dies.

    Args:
        build: called in each worker with its number, from 0; returns its state. Like everything
            that is sent to workers it must be picklable.
        workers: processes.
    """

    def __init__(self, build: Callable[[int], State], workers: int) -> None:
        self._build = build
        self._count = workers
        self._local: State | None = None
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        if self._count == 1:
            self._local = self._build(0)
        else:
            self._workers = [_Worker(self._build, number) for number in range(self._count)]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
        self._workers = []

    @property
    def has_processes(self) -> bool:
        """Whether there are others than this one."""
        return bool(self._workers)

    @property
    def window(self) -> int:
        """When `map` takes a task, it has yielded the result of the one so many before it."""
        return _WINDOW * self._count

    def map(
        self, function: Callable[[State, Task], Result], tasks: Iterable[Task]
    ) -> Iterator[Result]:
        """Yield `function(state, task)` for each task, in the order of the tasks.

        Tasks are taken from `tasks` as workers become free; each goes to whichever is.

        Raises:
            ChildProcessError: a worker died.
            Exception: what `function` raised for the first task that failed.
        """
        if self._local is not None:
            for task in tasks:
                yield function(self._local, task)
            return
        done: dict[int, Result | _Failure] = {}
        following = sent = 0
        for task in tasks:
            while (worker := min(self._workers, key=_Worker.load)).load() == _TASKS_AHEAD:
                self._receive(done)
            worker.send(sent, function, task)
            sent += 1
            self._receive(done, timeout=0)
            while following in done or sent - following == self.window:
                yield self._result(following, done)
                following += 1
        for number in range(following, sent):
            yield self._result(number, done)

    def each(self, function: Callable[[State], Result]) -> list[Result]:
        """Return `function(state)` of every worker."""
        if self._local is not None:
            return [function(self._local)]
        done: dict[int, Result | _Failure] = {}
        for worker in self._workers:
            worker.send(worker.number, _call, function)
        return [self._result(worker.number, done) for worker in self._workers]

    def _result(self, number: int, done: dict[int, Any]) -> Any:
        while number not in done:
            self._receive(done)
        return _value(done.pop(number))

    def _receive(self, done: dict[int, Any], timeout: float | None = None) -> None:
        """Take in the results that are there; without `timeout` wait for one."""
        busy = {worker.connection: worker for worker in self._workers if worker.load()}
        # a worker's end of the connection closes when it dies
        for connection in wait(list(busy), timeout):
            number, result = busy[connection].receive()  # type: ignore[index]  # is a Connection
            done[number] = result


class _Worker:
    """One worker process, as the pool sees it."""

    def __init__(self, build: Callable[[int], Any], number: int) -> None:
        # Arrow's threads do not survive a fork
        context = multiprocessing.get_context("spawn")
        self.number = number
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_work, args=(theirs, build, number), daemon=True, name=f"worker {number}"
        )
        self.process.start()
        theirs.close()  # or its end would not close with the worker
        self._tasks: deque[int] = deque()

    def load(self) -> int:
        """Return the tasks that were sent and not done yet."""
        return len(self._tasks)

    def send(self, number: int, function: Callable[[Any, Any], Any], task: Any) -> None:
        try:
            self.connection.send((number, function, task))
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
        code = self.process.exitcode
        how = f"exit status {code}"
        if code is not None and code < 0:
            how = signal.Signals(-code).name
            if how == "SIGKILL":
                how += ", which is how a system that is out of memory ends processes"
        return ChildProcessError(f"{self.process.name} died: {how}")


class _Failure:
    """An exception that a task raised."""

    def __init__(self, error: Exception) -> None:
        error.add_note("".join(traceback.format_exception(error)))
        self.error = error


def _value(result: Any) -> Any:
    if isinstance(result, _Failure):
        raise result.error
    return result


def _call(state: State, function: Callable[[State], Result]) -> Result:
    return function(state)


def _work(connection: Connection, build: Callable[[int], Any], number: int) -> None:
    """Do the tasks of a worker process."""
    # Ctrl-C reaches all processes of a terminal; the one that started this one deals with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _keep_freed_memory()
    gc.freeze()  # what was imported stays, so it need not be looked at again and again
    tasks: queue.SimpleQueue[tuple[int, Callable[[Any, Any], Any], Any]] = queue.SimpleQueue()
    threading.Thread(target=_read_ahead, args=(connection, tasks), daemon=True).start()
    state: Any = None
    while True:
        _, function, task = tasks.get()
        try:
            if state is None:
                state = build(number)
            result = function(state, task)
        except Exception as error:
            result = _Failure(error)
        del task  # or its memory is held while the next one is awaited
        try:
            connection.send(result)
        except BrokenPipeError:
            os._exit(1)


def _keep_freed_memory() -> None:
    """Have Arrow use the C library's memory, and glibc keep for the next task what a task frees.

    By default both return arrays of megabytes to the system and take them from it anew, page by
    page, which takes a quarter of the time of such work.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return
    mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT)
    mallopt(_M_TRIM_THRESHOLD, 4 * LARGEST_KEPT)


def _read_ahead(connection: Connection, tasks: "queue.SimpleQueue[Any]") -> None:
    """Receive tasks while others are worked on; end the process when there can be no more."""
    try:
        while True:
            tasks.put(connection.recv())
    except (EOFError, ConnectionResetError):
        pass  # the other end is closed: the process that started this one has died
    except Exception:
        traceback.print_exc()  # a task that cannot be unpickled
    os._exit(1)
