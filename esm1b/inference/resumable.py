"""Rows of a file of results, computed by a job that may be killed at any time."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

import pyarrow as pa
from tqdm import tqdm

from esm1b.errors import Stopped, UserError
from esm1b.inference.result_file import ResultParts
from esm1b.stopping import StopAtOnce

_log = logging.getLogger(__name__)

# Small results, written for each chunk, would make a hundred thousand files of UniRef50.
_WAITING_BYTES: Final = 128 << 20


def compute_parts(
    parts: ResultParts,
    chunks: Callable[[int], Iterable[pa.Table]],
    finish: Callable[[], None],
    *,
    count: int,
    source: str,
    task: str,
    unit: str,
    part_seconds: float,
) -> None:
    """Compute the rows that `parts` lack, call `finish`, which makes the output, and remove them.

    A kill costs the work of about `part_seconds`, and of one chunk.

    Args:
        parts: finished rows.
        chunks: rows from a number on, in chunks that are the same from whichever they start.
        finish: last step, once all rows are there.
        count: number of all rows.
        source: name of the input for messages.
        task: name of the work for the progress bar.
        unit: name of the rows.
        part_seconds: time between two parts.

    Raises:
        UserError: the input changed; parts may hold rows of its earlier content and are removed.
        Stopped: a signal asked to stop; everything finished is saved.
    """
    if parts.rows:
        _log.info("%s: resuming after %d of %d %s", source, parts.rows, count, unit)
    try:
        with StopAtOnce().from_signals() as stop:
            _compute(parts, chunks(parts.rows), stop, count, task, unit, part_seconds)
            finish()
    except UserError:
        parts.remove()
        raise
    except Stopped as stopped:
        raise Stopped(f"{parts.rows} of {count} {unit} are saved") from stopped
    parts.remove()


def _compute(
    parts: ResultParts,
    chunks: Iterable[pa.Table],
    stop: StopAtOnce,
    count: int,
    task: str,
    unit: str,
    part_seconds: float,
) -> None:
    """Add the missing rows to `parts`."""
    waiting: list[pa.Table] = []
    written = time.monotonic()
    with tqdm(desc=task, initial=parts.rows, total=count, unit=f" {unit}", disable=None) as bar:
        try:
            for chunk in chunks:
                waiting.append(chunk)
                bar.update(chunk.num_rows)
                size = sum(table.nbytes for table in waiting)
                if time.monotonic() - written >= part_seconds or size >= _WAITING_BYTES:
                    with stop.held_back():
                        parts.write(waiting)
                        waiting.clear()
                    written = time.monotonic()
        finally:  # however it ended, finished work is kept
            with stop.held_back():
                if waiting:
                    parts.write(waiting)
