"""`chains.csv`: which chain of which structure file is used."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, takewhile
from pathlib import Path
from typing import Final

from esm1b.errors import UserError
from esm1b.evaluation.structures.files import structure_name
from esm1b.table_file import read_table

CHOICES: Final = "chains.csv"

_COLUMNS: Final = ("chain", "file", "pdb_id", "main")
_YES: Final = ("1", "1.0", "true", "yes")
_NO: Final = ("", "0", "0.0", "false", "no")
# 1abc as the archive writes it: 1abc, pdb1abc.ent, pdb_00001abc, 1abc-assembly1, 1abc_updated.
_ENTRY: Final = re.compile(r"(?:pdb_0000|pdb)?([1-9][a-z0-9]{3})(?P<rest>[-_.].*)?")


@dataclass(frozen=True, kw_only=True)
class _Row:
    label: str  # for messages
    file: str
    chain: str


def read_choices(folder: Path, files: Sequence[Path]) -> dict[Path, str]:
    """Return the chain that the folder's `chains.csv`, in any case of letters, chooses by file.

    A row has `chain` and `file` or `pdb_id`; where there is a column `main`, rows with 1 count. A
    file is found by its name, then without regard to case, suffix, and the archive's additions to
    a PDB id; of several by the folders in `file`.

    Raises:
        UserError: the table lacks a column, a row names no file or several, or rows disagree.
    """
    tables = sorted(path for path in folder.iterdir() if path.name.lower() == CHOICES)
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise UserError(f"{folder}: holds {names}; expected one table of chains")
    chosen: dict[Path, _Row] = {}
    unknown = []
    index: dict[tuple[int, str], list[Path]] = {}
    for file in files:
        for key in _keys(file.name, is_file=True):
            index.setdefault(key, []).append(file)
    for table in tables:
        for row in _rows(table):
            found = _find(index, row.file)
            if len(found) > 1:
                names = ", ".join(str(file) for file in found[:3])
                raise UserError(f"{table}: {row.label} is each of {names}; expected one file")
            if not found:
                unknown.append(row.label)
                continue
            earlier = chosen.setdefault(found[0], row)
            if earlier.chain != row.chain:
                raise UserError(
                    f"{table}: {row.label} has chain {row.chain!r} where {earlier.label} has "
                    f"{earlier.chain!r}; expected one chain of {found[0].name}"
                )
        if unknown:
            raise UserError(
                f"{table}: no structure file for {first_named(unknown)}; "
                f"expected names of files in {folder}"
            )
    return {file: row.chain for file, row in chosen.items()}


def first_named(names: Sequence[str]) -> str:
    """Return the first three names and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _rows(table: Path) -> Iterator[_Row]:
    """Yield the rows that count; for errors see `read_choices`."""
    columns, rows = read_table(table, _COLUMNS)
    if "chain" not in columns or not {"file", "pdb_id"} & set(columns):
        raise UserError(
            f"{table}: has the columns {', '.join(columns) or 'none'}; "
            "expected chain and file or pdb_id"
        )
    for number, cells in enumerate(rows, start=1):
        row = {name: str(cell or "").strip() for name, cell in cells.items()}
        if not any(row.values()):
            continue
        main = row.get("main", "1").lower()
        if main not in (*_YES, *_NO):
            raise UserError(f"{table}: row {number}: main is {main!r}; expected 1 or 0")
        if main in _YES:
            file = row.get("file") or row.get("pdb_id") or ""
            yield _Row(label=f"row {number} ({file})", file=file, chain=row.get("chain", ""))


def _find(index: Mapping[tuple[int, str], Sequence[Path]], wanted: str) -> list[Path]:
    """Return the files that fit best: one, or several that fit equally, or none."""
    parts = wanted.replace("\\", "/").split("/")
    keys = _keys(parts[-1], is_file=False)
    found = next((index[key] for key in keys if key in index), [])
    agreements = [_common_tail(parts[:-1], file.parent.parts) for file in found]
    return list(compress(found, (each == max(agreements) for each in agreements)))


def _keys(name: str, *, is_file: bool) -> list[tuple[int, str]]:
    """Return what finds a file, the most exact first; a rest after the id is a file's only."""
    stem = (structure_name(Path(name)) or name).lower()
    keys = [(0, name), (1, name.lower()), (2, stem)]
    if (entry := _ENTRY.fullmatch(stem)) and (is_file or not entry["rest"]):
        keys += [(3, entry[1])] if not entry["rest"] else []
        keys += [(4, entry[1])]
    return keys


def _common_tail(first: Sequence[str], second: Sequence[str]) -> int:
    """Return how many of the last parts of two paths are equal."""
    pairs = zip(reversed(first), reversed(second), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
