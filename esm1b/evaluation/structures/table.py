"""The structure table: sequences and their known structure, one row per protein.

It is read from a table, or from a folder of PDB and mmCIF files.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from esm1b.alphabet import SECONDARY_STRUCTURE, encode
from esm1b.errors import UserError
from esm1b.evaluation.structures.folder import read_folder
from esm1b.evaluation.structures.geometry import MINIMUM_SEPARATION, Glycine
from esm1b.evaluation.structures.proteins import Protein
from esm1b.table_file import Row, read_table

KINDS: Final = ("fit", "test", "unseen")

_NAMES: Final = ("id", "chain_id", "group", "kind", "split")
_LIST: Final = re.compile(r"\[[\d\s,]*\]")
_FEWER_STATES: Final = "reduce eight states to three first: G and I to H, B to E, others to C"

# `group` is the bootstrap's unit; `observed` has one 1 or 0 per residue; contacts are counted from
# 0, with i < j. `kind` is null where no one has chosen yet, `ss3` (H, E or C per residue) where it
# is not known.
STRUCTURE_SCHEMA: Final = pa.schema(
    [
        ("id", pa.string()),
        ("group", pa.string()),
        ("kind", pa.string()),
        ("sequence", pa.string()),
        ("observed", pa.string()),
        ("contact_i", pa.list_(pa.int32())),
        ("contact_j", pa.list_(pa.int32())),
        ("ss3", pa.string()),
    ]
)


def read_structures(path: Path, *, glycine: Glycine = "impute") -> list[Protein]:
    """Return the proteins of the structure table at `path`, or of a folder of structure files.

    A table has the columns of `STRUCTURE_SCHEMA`, `ss3` if it is known, and perhaps others; as
    text, contacts are lists such as `[0, 5]`. For its formats see `read_table`.

    A folder is searched with its subfolders for PDB and mmCIF files, by the suffixes `.pdb`,
    `.pdb1`, `.ent`, `.cif`, `.mmcif` and `.bcif`, plain, `.gz`, `.bz2` or `.xz`; see `read_folder`.
    One chain of each file is read: the one that `chains.csv` in the folder names (columns `chain`
    and `file` or `pdb_id`; where there is a column `main`, rows with 1), else the first protein
    chain with at least 20 residues. The sequence is the one the file states (SEQRES or
    entity_poly_seq), or that of the residues with coordinates where it states none. A residue is
    observed if it has a Cb, or N, CA and C to place one.

    Proteins are sorted by id. From a folder, `group` is the id, `kind` and `ss3` are None.

    Raises:
        UserError: the folder has no structures, a file cannot be read, the table is not one, or a
            row contradicts itself.
    """
    if path.is_dir():
        return read_folder(path, glycine=glycine)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    names = STRUCTURE_SCHEMA.names
    columns, rows = read_table(path, names)
    if not set(columns) & set(names):
        raise UserError(
            f"{path}: is no structure table; expected a folder of structures, or a table with the "
            f"columns {', '.join(names)}"
        )
    check_columns(path, [name for name in names if name != "ss3"], columns, rows=len(rows))
    proteins: dict[str, Protein] = {}
    for number, row in enumerate(rows, start=1):
        where = row_label(path, number if row["id"] is None else row["id"])
        cells = {
            name: (contact_list if name.startswith("contact_") else cell_text)(row, name, where)
            for name in names
        }
        protein = protein_of(cells, where)
        if protein.id in proteins:
            raise UserError(f"{where}: the id occurs twice; expected it once")
        proteins[protein.id] = protein
    return [proteins[identifier] for identifier in sorted(proteins)]


def protein_of(row: Mapping[str, Any], where: str, *, observed: str = "observed") -> Protein:
    """Return the protein of a row of the structure table.

    Args:
        row: cells by the columns of `STRUCTURE_SCHEMA`.
        where: file and row, for messages.
        observed: name of the column of observed residues, for messages.

    Raises:
        UserError: the row contradicts itself, or the sequence has a character that is no residue.
    """
    for problem in _problems(row, observed):
        raise UserError(f"{where}: {problem}")
    try:
        residues = encode(row["sequence"])
    except ValueError as error:
        raise UserError(f"{where}: sequence: {error}") from error
    return Protein(
        id=row["id"],
        group=row["group"],
        kind=row["kind"],
        residues=residues,
        observed=np.frombuffer(row["observed"].encode(), dtype=np.uint8) == ord("1"),
        contacts=np.array([row["contact_i"], row["contact_j"]], dtype=np.int64),
        ss3=row["ss3"],
    )


def row_label(path: Path, name: object) -> str:
    """Return the beginning of a message about a row: the file and the name, in one line."""
    return f"{path}: row {' '.join(str(name).split())}"


def cell_text(row: Row, column: str, where: str) -> str | None:
    """Return the text of a cell, None if it is empty; numbers are names of rows and groups too.

    Raises:
        UserError: the cell holds something else; `where` names the row.
    """
    value = row.get(column)
    if column in _NAMES and isinstance(value, str | int | float):
        return str(value).strip() or None
    if value is None or isinstance(value, str):
        return value
    kind = type(value).__name__
    raise UserError(f"{where}: {column} is {str(value)[:40]!r} ({kind}); expected text")


def contact_list(row: Row, column: str, where: str) -> list[int] | None:
    """Return the positions in a cell, None if it is empty.

    Raises:
        UserError: the cell holds something else; `where` names the row.
    """
    value = row.get(column)
    if isinstance(value, str) and _LIST.fullmatch(value):
        value = [int(number) for number in re.findall(r"\d+", value)]
    if value is None or isinstance(value, list):
        return value
    raise UserError(
        f"{where}: {column} is {str(value)[:40]!r}; expected a list of positions such as [0, 5]"
    )


def check_columns(path: Path, needed: Sequence[str], columns: Sequence[str], *, rows: int) -> None:
    """Raise UserError if a table of proteins lacks one of the columns `needed` or has no rows."""
    missing = [name for name in needed if name not in columns]
    if missing:
        found = ", ".join(columns)[:200] or "none"
        raise UserError(f"{path}: lacks the columns {', '.join(missing)}; it has {found}")
    if rows == 0:
        raise UserError(f"{path}: has no rows; expected at least one protein")


def _problems(row: Mapping[str, Any], observed: str) -> Iterator[str]:
    """Yield the contradictions within a row; later ones may follow from the first."""
    named = {"observed": observed}
    for column in STRUCTURE_SCHEMA.names:
        if row[column] is None and column not in ("kind", "ss3"):
            yield f"{named.get(column, column)} is empty; expected a value"
    length, seen = len(row["sequence"]), row["observed"]
    if row["kind"] not in (*KINDS, None):
        yield f"kind is {row['kind']!r}; expected {', '.join(KINDS)} or none"
    for column, letters in (("observed", "01"), ("ss3", SECONDARY_STRUCTURE)):
        text, name = row[column] or "", named.get(column, column)
        if len(text) != length and row[column] is not None:
            yield f"{name} has {len(text)} characters; expected {length}, one per residue"
        for position, (letter, known) in enumerate(zip(text, seen, strict=False), start=1):
            # A residue without coordinates has no structure: any letter is accepted.
            if letter not in letters and (column == "observed" or known == "1"):
                yield (
                    f"{name} has {letter!r} at position {position}; "
                    f"expected one of {', '.join(letters)}"
                    f"{'' if column == 'observed' else f'; {_FEWER_STATES}'}"
                )
    first, second = row["contact_i"], row["contact_j"]
    if len(first) != len(second):
        yield f"{len(first)} contact_i and {len(second)} contact_j; expected as many of each"
    for i, j in zip(first, second, strict=False):
        is_place = type(i) is type(j) is int
        if not is_place or not 0 <= i <= j - MINIMUM_SEPARATION or j >= length:
            yield (
                f"contact ({i}, {j}) in a sequence of {length}; expected positions from 0 "
                f"at least {MINIMUM_SEPARATION} apart, the smaller first"
            )
        elif "0" in (seen[i], seen[j]):
            yield f"contact ({i}, {j}) of a residue without coordinates; expected both observed"
