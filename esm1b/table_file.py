"""Files of tables as people write them: the content tells the format, not the suffix."""

import csv
import io
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from esm1b.errors import UserError, one_line
from esm1b.files import read_content

_PARQUET: Final = b"PAR1"
_ARROW_FILE: Final = b"ARROW1"
_ARROW_STREAM: Final = b"\xff\xff\xff\xff"
_EXPECTED: Final = "expected CSV or TSV in UTF-8, Parquet or Arrow, plain or gzip-compressed"

Row = Mapping[str, Any]
"""The cells of a row by column; an empty one, null or NaN is None."""


def read_table(path: Path, known: Collection[str]) -> tuple[Sequence[str], list[Row]]:
    """Return the columns of a table and its rows, those with the `known` columns only.

    CSV (with commas, semicolons or tabs), Parquet and Arrow (Feather), plain or gzip. Upper and
    lower case and spaces around the name of a column make no difference.

    Raises:
        UserError: the file cannot be read or is not a table, a known column is there twice, or a
            row has more cells than there are columns.
    """
    content = read_content(path)
    cells: Iterable[Sequence[Any]]
    if content.startswith((_PARQUET, _ARROW_FILE, _ARROW_STREAM)):
        names, chosen, columns = _arrow_table(path, content, known)
        cells = zip(*columns, strict=True)
    else:
        names, lines = _text_table(path, content)
        chosen = _chosen(path, names, known)
        cells = ([line[place] for place in chosen.values()] for line in lines)
    return names, [
        {name: _value(cell) for name, cell in zip(chosen, row, strict=True)} for row in cells
    ]


def _arrow_table(
    path: Path, content: bytes, known: Collection[str]
) -> tuple[list[str], dict[str, int], list[list[Any]]]:
    """Return the columns, the place of each known one, and the cells of these."""
    source = pa.BufferReader(content)
    try:
        if content.startswith(_PARQUET):
            table = pq.ParquetFile(source).read()
        else:
            is_file = content.startswith(_ARROW_FILE)
            table = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(source).read_all()
        names = [plain_name(name) for name in table.column_names]
        chosen = _chosen(path, names, known)
        # fails of text that is not UTF-8, and of dates out of range
        return names, chosen, [table.column(place).to_pylist() for place in chosen.values()]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a table: {one_line(error)}") from error


def _text_table(path: Path, content: bytes) -> tuple[list[str], list[list[str]]]:
    """Return the columns and the cells of each row, as many as there are columns."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if b"\0" in content:
            raise UserError(f"{path}: is not a table; {_EXPECTED}") from error
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: line {line}: byte {content[error.start]:#04x} is not UTF-8; {_EXPECTED}"
        ) from error
    stream = io.StringIO(text, newline="")
    header = stream.readline()
    stream.seek(0)
    # strict: a quotation mark that is never closed would swallow the rows after it
    delimiter = max(",\t;", key=header.count)
    reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True, strict=True)
    rows: list[list[str]] = []
    try:
        names = [plain_name(name) for name in next(reader, [])]
        for row in filter(None, reader):
            if any(row[len(names) :]):
                raise UserError(
                    f"{path}: row {len(rows) + 1} has {len(row)} cells; expected {len(names)}"
                )
            rows.append([*row, *[""] * (len(names) - len(row))])
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: invalid CSV: {error}") from error
    return names, rows


def plain_name(name: str) -> str:
    """Return the name of a column in the form that counts: lower case, single spaces."""
    return " ".join(name.split()).lower()


def _chosen(path: Path, names: Sequence[str], known: Collection[str]) -> dict[str, int]:
    """Return the place of each known column that is there."""
    for name in known:
        if (found := names.count(name)) > 1:
            raise UserError(f"{path}: has the column {name} {found} times; expected one")
    return {name: place for place, name in enumerate(names) if name in known}


def _value(cell: Any) -> Any:
    """Return a cell; None where it is empty, null or NaN."""
    is_nan = isinstance(cell, float) and math.isnan(cell)
    return None if is_nan or cell == "" else cell
