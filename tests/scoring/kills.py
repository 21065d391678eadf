"""Jobs that are killed at their n-th event, run again, and compared with undisturbed ones."""

import os
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL
from typing import Any

from esm1b.inference.model import Model
from esm1b.inference.result_file import ResultParts


def check_kills(
    job: Callable[[Path], None], folder: Path, number: int, read: Callable[[Path], Any]
) -> None:
    """Kill `job` at moments spread over all its events, and each time run it again to its end.

    Events are batches of the network, writes of parts, renames and removals.

    Args:
        job: function that writes an output to a path.
        folder: folder of the outputs.
        number: number of moments, the last event included.
        read: function that returns the content of an output, which must be the same each time.
    """
    whole = folder / "whole.parquet"
    events = _run(job, whole)
    assert events is not None
    expected = read(whole)
    for moment in {round(1 + (events - 1) * step / (number - 1)) for step in range(number)}:
        output = folder / f"killed-{moment}.parquet"
        assert _run(job, output, kill_at=moment) is None
        job(output)
        assert read(output) == expected
        assert not output.with_name(f"{output.name}.parts").exists()


def _run(job: Callable[[Path], None], output: Path, kill_at: int = 0) -> int | None:
    """Run `job` in a process of its own; return the number of its events, None if it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            events = _count_events(kill_at)
            job(output)
            os.write(writing, str(len(events)).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        count = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == SIGKILL:
        return None
    assert status == 0
    return int(count)


def _count_events(kill_at: int) -> list[None]:
    """Return a list that grows with each event; at its length `kill_at` the process dies."""
    events: list[None] = []

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            events.append(None)
            if len(events) == kill_at:
                os.kill(os.getpid(), SIGKILL)
            return function(*arguments, **options)

        return call

    places: list[tuple[Any, str]] = [
        (Model, "log_probabilities"),
        (ResultParts, "write"),
        (os, "rename"),
        (os, "replace"),
        (os, "unlink"),
        (shutil, "rmtree"),
    ]
    for place, name in places:
        setattr(place, name, counted(getattr(place, name)))
    return events
