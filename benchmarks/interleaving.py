"""Sides of a comparison that take turns, each in its own process.

Other load on the machine slows neighbouring pieces of work alike, so the ratio of two sides that
take turns is steadier than the time of either. Its own process gives each side its own memory peak.
"""

import multiprocessing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from statistics import median
from time import perf_counter, process_time
from typing import Any, Protocol

import torch
from tqdm import tqdm

from benchmarks.machine import peak_memory_bytes, resident_memory_bytes

_SECONDS_TO_END = 10


class Work(Protocol):
    """The work of one side."""

    def first(self) -> Any:
        """Warm up without being timed, and return a value that all sides must agree on."""

    def run(self, piece: int) -> None:
        """Do one timed piece of work; by default the same as `first`."""
        self.first()

    def last(self) -> Any:
        """Return what else is to be known, after all pieces."""
        return None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Time and memory of one side.

    Attributes:
        first: value that `Work.first` returned.
        seconds: elapsed seconds by pass and piece.
        cpu_seconds: processor seconds of all threads by pass and piece; other load on the machine
            does not count.
        memory_before_bytes: resident memory once the side was built, before any work.
        peak_memory_bytes: peak resident memory.
        last: value that `Work.last` returned.
    """

    first: Any
    seconds: list[list[float]]
    cpu_seconds: list[list[float]]
    memory_before_bytes: int
    peak_memory_bytes: int
    last: Any

    @property
    def pass_seconds(self) -> list[float]:
        """Elapsed seconds of each pass over all pieces."""
        return [sum(pieces) for pieces in self.seconds]

    @property
    def least_seconds(self) -> float:
        """Sum over the pieces of the seconds of the fastest pass."""
        return sum(map(min, zip(*self.seconds, strict=True)), start=0.0)

    def compared_with(self, other: "Measured") -> dict[str, float]:
        """Return time and peak memory, divided by those of `other`.

        `time` is the median of the passes; `least_time` takes each piece from its fastest pass,
        which leaves out interruptions.
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


def measure_in_turn(
    sides: Mapping[str, Callable[[], Work]],
    *,
    passes: int,
    pieces: int,
    threads: int,
    device: str = "cpu",
) -> dict[str, Measured]:
    """Run every piece on every side in turn, `passes` times over.

    Args:
        sides: picklable constructor of each side by name, called in the side's new process.
        passes: number of passes over all pieces.
        pieces: number of pieces in a pass.
        threads: CPU threads of torch in each process; only one process works at a time.
        device: device of all sides; on any but cpu one runs after the other, so that each has all
            of its memory.
    """
    if device != "cpu" and len(sides) > 1:
        alone = partial(measure_in_turn, passes=passes, pieces=pieces, threads=threads)
        return {name: alone({name: build})[name] for name, build in sides.items()}
    context = multiprocessing.get_context("spawn")
    processes, connections = [], {}
    try:
        for name, build in sides.items():
            connections[name], theirs = context.Pipe()
            process = context.Process(target=_serve, args=(build, threads, theirs), daemon=True)
            process.start()
            theirs.close()  # otherwise the connection would outlive a side that dies
            processes.append(process)
            connections[name].recv()  # wait: one side is built at a time
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
        last = {name: _ask(connection, "last") for name, connection in connections.items()}
    finally:
        for connection in connections.values():
            connection.close()  # makes the process exit
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
            last=last[name],
        )
        for name in sides
    }


def _ratios(ours: list[list[float]], theirs: list[list[float]]) -> list[float]:
    return [sum(a) / sum(b) for a, b in zip(ours, theirs, strict=True)]


def _ask(connection: Connection, request: int | str | None) -> Any:
    connection.send(request)
    return connection.recv()


def _serve(build: Callable[[], Work], threads: int, connection: Connection) -> None:
    """Answer requests: None for `Work.first`, a number for a piece, `memory`, `last`."""
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
        elif request == "memory":
            connection.send((memory_before, peak_memory_bytes()))
        else:
            connection.send(work.last())
