"""The structure table: sequences and their known structure, one row per protein."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from esm1b.alphabet import SECONDARY_STRUCTURE
from esm1b.errors import UserError
from esm1b.evaluation.structures.geometry import MINIMUM_SEPARATION

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


def validated_structures(path: Path, table: pa.Table) -> pa.Table:
    """Return `table` with exactly the columns of the schema, sorted by id.

    Raises:
        UserError: a column is missing or a row contradicts itself; `path` is named as the file.
    """
    missing = [name for name in STRUCTURE_SCHEMA.names if name not in {*table.column_names, "ss3"}]
    if missing:
        raise UserError(
            f"{path}: lacks the columns {', '.join(missing)}; "
            f"it has {', '.join(table.column_names) or 'none'}"
        )
    if table.num_rows == 0:
        raise UserError(f"{path}: has no rows; expected at least one protein")
    if "ss3" not in table.column_names:
        table = table.append_column("ss3", pa.nulls(table.num_rows, pa.string()))
    try:
        table = table.select(STRUCTURE_SCHEMA.names).cast(STRUCTURE_SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(f"{path}: a column has the wrong type: {error}") from error
    table = table.sort_by("id")
    seen: set[str] = set()
    for row in table.to_pylist():
        if (problem := find_problem(row)) is not None:
            raise UserError(f"{path}: row {row['id']}: {problem}")
        if row["id"] in seen:
            raise UserError(f"{path}: row {row['id']}: the id occurs twice; expected it once")
        seen.add(row["id"])
    return table


def find_problem(row: Mapping[str, Any]) -> str | None:
    """Return the first contradiction within a row of the structure table, or None."""
    return next(_problems(row), None)


def _problems(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a row; only the first is sound, later ones may follow from it."""
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
            # A residue without coordinates has no structure: any letter may stand there.
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
