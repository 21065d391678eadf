"""Sorted runs of records on disk, of which any interval of the order can be read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from esm1b.corpus.records.table import ROW, Rows

# Hashes are uniform, so that equal cells of their range hold about equal shares: the number of the
# first record of each is a directory that tells where to look, in 32 kB a run.
_CELLS: Final = 1 << 12
_CELL_SIZE: Final = 2**64 // _CELLS
_PLACE: Final = np.dtype("<i8")
_INDEX_START: Final = (_CELLS + 1) * _PLACE.itemsize


def write_run(path: Path, rows: Rows) -> int:
    """Write compact records that are in order: directory, index, text. Return their bytes."""
    edges = np.arange(1, _CELLS, dtype=np.uint64) * np.uint64(_CELL_SIZE)
    places = np.searchsorted(rows.index["order"], edges)
    directory = np.concatenate([[0], places, [len(rows)]]).astype(_PLACE)
    with path.open("wb") as file:
        file.write(directory.data)
        file.write(rows.index.data)
        file.write(rows.text)
    return rows.size


def read_interval(paths: Sequence[Path], low: int, high: int) -> Rows:
    """Return the records of all runs with `low <= order < high`, run by run and in order."""
    nothing = Rows(index=np.empty(0, ROW), text=b"")
    return Rows.concatenate([nothing, *(_read_run(path, low, high) for path in paths)])


def _read_run(path: Path, low: int, high: int) -> Rows:
    """Return the records of one run with `low <= order < high`."""
    # the file is open only while it is read: there are many
    directory = _read(path, _PLACE, 0, _CELLS + 1)
    first, last = directory[[low // _CELL_SIZE, (high - 1) // _CELL_SIZE + 1]].tolist()
    index = _read(path, ROW, _INDEX_START + first * ROW.itemsize, last - first)
    bounds = np.array([low, high - 1], np.uint64)
    start = int(np.searchsorted(index["order"], bounds[0]))
    end = int(np.searchsorted(index["order"], bounds[1], side="right"))
    index = index[start:end]
    if not len(index):
        return Rows(index=index, text=b"")
    # the text of consecutive records is in one piece; a row ends with the sequence
    text_start, row = int(index["start"][0]), index[-1]
    text_end = int(row["start"] + row["starts"][-1] + row["lengths"][-1])
    index["start"] -= text_start
    offset = _INDEX_START + int(directory[-1]) * ROW.itemsize + text_start
    return Rows(index=index, text=_read(path, np.dtype("u1"), offset, text_end - text_start).data)


def _read(path: Path, dtype: np.dtype[Any], offset: int, count: int) -> NDArray[Any]:
    content: NDArray[Any] = np.fromfile(path, dtype, count, offset=offset)
    if len(content) < count:
        raise EOFError("a run of records ends early")
    return content
