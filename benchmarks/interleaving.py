"""Sides of a comparison, each in a process of its own, that work in turn.

What else runs on the machine slows neighbouring pieces of work alike, and a ratio of times taken
in turn is steadier than either. A process of its own gives each side a peak of memory of its own.
"""

import multiprocessing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median
from time import perf_counter, process_time
from typing import Any, Protocol

import torch
from tqdm import tqdm

from benchmarks.machine import peak_memory_bytes, resident_memory_bytes

_SECONDS_TO_END = 10


class Work(Protocol):
    """What one side does."""

    def first(self) -> Any:
        """Do some untimed work, as a warm-up, and return what all sides must agree on."""

    def run(self, piece: int) -> None:
        """Do the piece of work with this number, timed."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one side took.

    Attributes:
        first: what its `Work.first` returned.
        seconds: by pass, then by piece.
        cpu_seconds: of all threads of the side's process, alike. What others take of the machine
            they do not count.
        memory_before_bytes: resident once the side was built, before any work.
        peak_memory_bytes: most that was resident.
    """

    first: Any
    seconds: list[list[float]]
    cpu_seconds: list[list[float]]
    memory_before_bytes: int
    peak_memory_bytes: int

    @property
    def pass_seconds(self) -> list[float]:
        """Seconds of each pass over all pieces."""
        return [sum(pieces) for pieces in self.seconds]

    @property
    def least_seconds(self) -> float:
        """Seconds of a pass whose every piece is the fastest of all passes."""
        return sum(map(min, zip(*self.seconds, strict=True)), start=0.0)

    def compared_with(self, other: "Measured") -> dict[str, float]:
        """Return time and peak of memory, divided by the other's.

        `time` is the median of the passes; `least_time` takes each piece at its fastest pass, which
        leaves out what came between.
        """
        ratios = _ratios(self.seconds, other.seconds)
        return {
            "time": round(median(ratios), 3),
            "lowest_time": round(min(ratios), 3),
            "highest_time": round(max(ratios), 3),
            "least_time": round(self.least_seconds / other.least_seconds, 3),
            "cpu_time": round(median(_ratios(self.cpu_seconds, other.cpu_seconds)), 3),
            "peak_memory": round(self.peak_memory_bytes / other.peak_memory_bytes, 3),
        }


def measure(
    sides: Mapping[str, Callable[[], Work]], *, passes: int, pieces: int, threads: int
) -> dict[str, Measured]:
    """Run every piece on every side in turn, `passes` times over.

    Args:
        sides: by name, what builds a side; called in a new process, so it must be picklable.
        passes: how often all pieces are run.
        pieces: how many there are.
        threads: of torch, in each process; only one process works at a time.
    """
    context = multiprocessing.get_context("spawn")
    processes, connections = [], {}
    try:
        for name, build in sides.items():
            connections[name], theirs = context.Pipe()
            process = context.Process(target=_serve, args=(build, threads, theirs), daemon=True)
            process.start()
            theirs.close()  # so that a side that dies ends the connection
            processes.append(process)
            connections[name].recv()  # one side is built at a time
        first = {name: _ask(connection, None) for name, connection in connections.items()}
        seconds: dict[str, list[list[float]]] = {name: [] for name in sides}
        cpu_seconds: dict[str, list[list[float]]] = {name: [] for name in sides}
        with tqdm(total=passes * pieces, unit="piece", disable=None) as progress:
            for _ in range(passes):
                for name in sides:
                    seconds[name].append([])
                    cpu_seconds[name].append([])
                for piece in range(pieces):
                    for name, connection in connections.items():
                        wall, cpu = _ask(connection, piece)
                        seconds[name][-1].append(wall)
                        cpu_seconds[name][-1].append(cpu)
                    progress.update()
        memory = {name: _ask(connection, "memory") for name, connection in connections.items()}
    finally:
        for connection in connections.values():
            connection.close()  # which ends the process
        for process in processes:
            process.join(timeout=_SECONDS_TO_END)
            process.terminate()
    return {
        name: Measured(
            first=first[name],
            seconds=seconds[name],
            cpu_seconds=cpu_seconds[name],
            memory_before_bytes=memory[name][0],
            peak_memory_bytes=memory[name][1],
        )
        for name in sides
    }


def _ratios(ours: list[list[float]], theirs: list[list[float]]) -> list[float]:
    return [sum(a) / sum(b) for a, b in zip(ours, theirs, strict=True)]


def _ask(connection: Connection, request: int | str | None) -> Any:
    connection.send(request)
    return connection.recv()


def _serve(build: Callable[[], Work], threads: int, connection: Connection) -> None:
    """Answer requests: None is `Work.first`, a number a piece of work, a text the memory."""
    torch.set_num_threads(threads)
    work = build()
    memory_before = resident_memory_bytes()
    connection.send("ready")
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        if request is None:
            connection.send(work.first())
        elif isinstance(request, int):
            started, cpu_started = perf_counter(), process_time()
            work.run(request)
            connection.send((perf_counter() - started, process_time() - cpu_started))
        else:
            connection.send((memory_before, peak_memory_bytes()))
