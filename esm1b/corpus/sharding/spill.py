"""Sorted runs of records on disk, of which any interval of the order can be read."""

from collections.abc import Sequence
from io import FileIO
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
    runs = [_Run(path, low, high) for path in paths]
    index = np.concatenate([np.empty(0, ROW), *(run.index for run in runs)])
    # in one piece from the start, so that nothing has to be put together
    text = np.empty(sum(run.text_size for run in runs), np.uint8).data
    first = start = 0
    for run in runs:
        run.read_text(text[start : start + run.text_size])
        index["start"][first : first + len(run.index)] += start
        first += len(run.index)
        start += run.text_size
    return Rows(index=index, text=text)


class _Run:
    """The records of a run in an interval. The file is open only while it is read: there are many.

    Attributes:
        index: of the records; their `start` counts from that of the first.
        text_size: bytes of their text.
    """

    def __init__(self, path: Path, low: int, high: int) -> None:
        self._path = path
        with path.open("rb", buffering=0) as file:
            directory = _array(file, _PLACE, 0, _CELLS + 1)
            first, last = directory[[low // _CELL_SIZE, (high - 1) // _CELL_SIZE + 1]].tolist()
            index = _array(file, ROW, _INDEX_START + first * ROW.itemsize, last - first)
        bounds = np.array([low, high - 1], np.uint64)
        start = int(np.searchsorted(index["order"], bounds[0]))
        end = int(np.searchsorted(index["order"], bounds[1], side="right"))
        self.index = index[start:end]
        self.text_size = self._text_start = 0
        if len(self.index):
            first_byte = int(self.index["start"][0])
            self._text_start = _INDEX_START + int(directory[-1]) * ROW.itemsize + first_byte
            self.index["start"] -= first_byte
            row = self.index[-1]
            # a row ends with the sequence
            self.text_size = int(row["start"] + row["starts"][-1] + row["lengths"][-1])

    def read_text(self, memory: memoryview) -> None:
        """Read the text of the records to `memory`, of `text_size` bytes."""
        with self._path.open("rb", buffering=0) as file:
            _read(file, memory, self._text_start)


def _array(file: FileIO, dtype: np.dtype[Any], offset: int, count: int) -> NDArray[Any]:
    content = np.empty(count * dtype.itemsize, np.uint8)
    _read(file, content.data, offset)
    return content.view(dtype)


def _read(file: FileIO, memory: memoryview, offset: int) -> None:
    file.seek(offset)
    while memory:  # one call reads less than 2 GiB
        count = file.readinto(memory)
        if not count:
            raise EOFError("a run of records ends early")
        memory = memory[count:]
