"""The structure table: sequences with what is known of their structure, one row per protein."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from esm1b.errors import UserError
from esm1b.evaluation.structures.separation import MINIMUM_SEPARATION

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
_OPTIONAL: Final = {"ss3"}


def validated_structures(path: Path, table: pa.Table) -> pa.Table:
    """Return `table` with exactly the columns of the schema, sorted by id.

    Raises:
        UserError: a column is missing or a row contradicts itself; `path` is named as the file.
    """
    expected = [name for name in STRUCTURE_SCHEMA.names if name not in _OPTIONAL]
    missing = [name for name in expected if name not in table.column_names]
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
        if (reason := _what_is_wrong(row)) is not None:
            raise UserError(f"{path}: row {row['id']}: {reason}")
        if row["id"] in seen:
            raise UserError(f"{path}: row {row['id']}: the id occurs twice; expected it once")
        seen.add(row["id"])
    return table


def _what_is_wrong(row: Mapping[str, Any]) -> str | None:
    for column in STRUCTURE_SCHEMA.names:
        if row[column] is None and column not in ("kind", "ss3"):
            return f"{column} is null; expected a value"
    length = len(row["sequence"])
    if length == 0:
        return "the sequence is empty; expected residues"
    if row["kind"] is not None and row["kind"] not in KINDS:
        return f"kind is {row['kind']!r}; expected {', '.join(KINDS)} or null"
    for column, alphabet in (("observed", "01"), ("ss3", "HEC")):
        text = row[column]
        if text is None:
            continue
        if len(text) != length:
            return f"{column} has {len(text)} characters; expected {length}, one per residue"
        # Structure is unknown where there are no coordinates, so any letter may stand there.
        wrong = _first_wrong(text, alphabet, row["observed"] if column == "ss3" else None)
        if wrong is not None:
            return (
                f"{column} has {text[wrong]!r} at position {wrong + 1}; "
                f"expected one of {', '.join(alphabet)}"
            )
    return _what_is_wrong_with_contacts(row["contact_i"], row["contact_j"], row["observed"])


def _first_wrong(text: str, alphabet: str, observed: str | None) -> int | None:
    return next(
        (
            position
            for position, letter in enumerate(text)
            if letter not in alphabet and (observed is None or observed[position] == "1")
        ),
        None,
    )


def _what_is_wrong_with_contacts(
    first: Sequence[int], second: Sequence[int], observed: str
) -> str | None:
    if len(first) != len(second):
        return f"{len(first)} contact_i and {len(second)} contact_j; expected as many of each"
    length = len(observed)
    for i, j in zip(first, second, strict=True):
        if (
            i is None
            or j is None
            or not 0 <= i <= j - MINIMUM_SEPARATION < length - MINIMUM_SEPARATION
        ):
            return (
                f"contact ({i}, {j}) in a sequence of {length}; expected positions from 0 "
                f"at least {MINIMUM_SEPARATION} apart, the smaller first"
            )
        if observed[i] != "1" or observed[j] != "1":
            return f"contact ({i}, {j}) of a residue without coordinates; expected both observed"
    return None
