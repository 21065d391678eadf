"""The structure table: sequences and their known structure, one row per protein.

It is read from Parquet, or from a folder of PDB and mmCIF files.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from esm1b.alphabet import SECONDARY_STRUCTURE
from esm1b.errors import UserError
from esm1b.evaluation.structures.files import read_text
from esm1b.evaluation.structures.folder import read_folder
from esm1b.evaluation.structures.geometry import MINIMUM_SEPARATION, Glycine

KINDS: Final = ("fit", "test", "unseen")

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


def read_structures(path: Path, *, glycine: Glycine = "impute") -> list[dict[str, Any]]:
    """Return the rows of the structure table at `path` (Parquet) or of a folder of structure files.

    A folder is searched with its subfolders for PDB and mmCIF files, by the suffixes `.pdb`,
    `.pdb1`, `.ent`, `.cif`, `.mmcif` and `.bcif`, plain, `.gz`, `.bz2` or `.xz`; see `read_folder`.
    One chain of each file is read: the one that `chains.csv` in the folder names (columns `chain`
    and `file` or `pdb_id`; where there is a column `main`, rows with 1), else the first protein
    chain with at least 20 residues. The sequence is the one the file states (SEQRES or
    entity_poly_seq), or that of the residues with coordinates where it states none. A residue is
    observed if it has a Cb, or N, CA and C to place one.

    Rows are sorted by id. From a folder, `group` is the id, `kind` and `ss3` are null.

    Raises:
        UserError: the folder has no structures, a file cannot be read, or the table is not one.
    """
    if path.is_dir():
        return read_folder(path, glycine=glycine)
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file or folder") from error
    except (OSError, pa.ArrowInvalid) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path}: expected a folder of structures or a Parquet table: {reason}"
        ) from error
    return _valid_rows(path, table)


def read_csv(path: Path) -> tuple[Sequence[str], list[dict[str, str | None]]]:
    """Return the columns and the rows of a CSV file, plain or `.gz`.

    Raises:
        UserError: the file cannot be read.
    """
    reader = csv.DictReader(io.StringIO(read_text(path, "utf-8-sig"), newline=""))
    try:
        rows = list(reader)
    except csv.Error as error:
        raise UserError(f"{path}: cannot be read as CSV: {error}") from error
    return reader.fieldnames or [], rows


def _valid_rows(path: Path, table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of `table` with exactly the columns of the schema, sorted by id.

    Raises:
        UserError: a column is missing or a row contradicts itself; `path` is named as the file.
    """
    needed = [name for name in STRUCTURE_SCHEMA.names if name != "ss3"]
    check_columns(path, needed, table.column_names, rows=table.num_rows)
    if "ss3" not in table.column_names:
        table = table.append_column("ss3", pa.nulls(table.num_rows, pa.string()))
    try:
        table = table.select(STRUCTURE_SCHEMA.names).cast(STRUCTURE_SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(f"{path}: a column has the wrong type: {error}") from error
    rows: dict[str, dict[str, Any]] = {}
    for row in table.sort_by("id").to_pylist():
        for problem in find_problems(row):
            raise UserError(f"{path}: row {row['id']}: {problem}")
        if row["id"] in rows:
            raise UserError(f"{path}: row {row['id']}: the id occurs twice; expected it once")
        rows[row["id"]] = row
    return list(rows.values())


def check_columns(path: Path, needed: Sequence[str], columns: Sequence[str], *, rows: int) -> None:
    """Raise UserError if a table of proteins lacks one of the columns `needed` or has no rows."""
    missing = [name for name in needed if name not in columns]
    if missing:
        found = ", ".join(columns)[:200] or "none"
        raise UserError(f"{path}: lacks the columns {', '.join(missing)}; it has {found}")
    if rows == 0:
        raise UserError(f"{path}: has no rows; expected at least one protein")


def find_problems(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the contradictions within a row of the structure table.

    Only the first is reliable: later ones may follow from it.
    """
    for column in STRUCTURE_SCHEMA.names:
        if row[column] is None and column not in ("kind", "ss3"):
            yield f"{column} is null; expected a value"
    length, observed = len(row["sequence"]), row["observed"]
    if length == 0:
        yield "the sequence is empty; expected residues"
    if row["kind"] not in (*KINDS, None):
        yield f"kind is {row['kind']!r}; expected {', '.join(KINDS)} or null"
    for column, letters in (("observed", "01"), ("ss3", SECONDARY_STRUCTURE)):
        text = row[column] or ""
        if len(text) != length and row[column] is not None:
            yield f"{column} has {len(text)} characters; expected {length}, one per residue"
        for position, (letter, seen) in enumerate(zip(text, observed, strict=False), start=1):
            # A residue without coordinates has no structure: any letter is accepted.
            if letter not in letters and (column == "observed" or seen == "1"):
                yield (
                    f"{column} has {letter!r} at position {position}; "
                    f"expected one of {', '.join(letters)}"
                )
    first, second = row["contact_i"], row["contact_j"]
    if len(first) != len(second):
        yield f"{len(first)} contact_i and {len(second)} contact_j; expected as many of each"
    for i, j in zip(first, second, strict=False):
        if i is None or j is None or not 0 <= i <= j - MINIMUM_SEPARATION or j >= length:
            yield (
                f"contact ({i}, {j}) in a sequence of {length}; expected positions from 0 "
                f"at least {MINIMUM_SEPARATION} apart, the smaller first"
            )
        elif "0" in (observed[i], observed[j]):
            yield f"contact ({i}, {j}) of a residue without coordinates; expected both observed"
