"""Tables of variants: read, and written with a score for each row."""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from esm1b.errors import UserError
from esm1b.inference.result_file import result_schema
from esm1b.scoring.mutations import Variant, VariantError, all_substitutions, parse_variant
from esm1b.table_file import plain_name, read_table

_log = logging.getLogger(__name__)

VARIANT_COLUMNS: Final = (
    *("mutant", "mutation", "mutations", "variant"),
    *("hgvs_pro", "hgvs", "mutated_sequence"),
)
"""Columns in which variants are looked for, the first that a table has."""

# Rows that are in most tables of experiments; the other reasons are mistakes.
_UNSCORED: Final = {"synonymous", "stop codon", "insertion or deletion"}


@dataclass(frozen=True, kw_only=True)
class VariantRow:
    """A row of a table: what it states, and its variant, or the `problem` that it has none."""

    text: str
    variant: Variant | None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class VariantTable:
    """Rows in the order of their file; `offset` is the number of the first residue."""

    rows: Sequence[VariantRow]
    offset: int

    @classmethod
    def of_all_substitutions(cls, wild_type: str, offset: int) -> "VariantTable":
        """Return a row for each single substitution."""
        variants = all_substitutions(wild_type, offset=offset)
        rows = [VariantRow(text=each.name, variant=each) for each in variants]
        return cls(rows=rows, offset=offset)

    @property
    def variants(self) -> list[Variant]:
        """Variants of the rows that have one, in their order."""
        return [row.variant for row in self.rows if row.variant is not None]

    def digest(self) -> str:
        """Return the SHA-256 of what the rows state."""
        return hashlib.sha256("\n".join(row.text for row in self.rows).encode()).hexdigest()

    def write(
        self, directory: Path, scores: NDArray[np.float64], settings: Mapping[str, Any]
    ) -> None:
        """Write `variants.parquet` and `variants.csv`, a score for each of `variants`.

        The settings, which decided the scores, are in the metadata of the Parquet file.
        """
        remaining = iter(scores.tolist())
        variants = [row.variant for row in self.rows]
        columns = {
            "variant": pa.array([row.text for row in self.rows], pa.string()),
            "mutations": pa.array(
                [each and each.short_name(self.offset) for each in variants], pa.string()
            ),
            "mutation_count": pa.array(
                [each and len(each.mutations) for each in variants], pa.int32()
            ),
            "score": pa.array([each and next(remaining) for each in variants], pa.float64()),
            "problem": pa.array([row.problem for row in self.rows], pa.string()),
        }
        metadata = result_schema({}, settings).metadata
        table = pa.table(columns).replace_schema_metadata(metadata)
        pq.write_table(table, directory / "variants.parquet", compression="zstd")
        pyarrow.csv.write_csv(table, directory / "variants.csv")


def read_variant_table(path: Path, column: str | None, wild_type: str, offset: int) -> VariantTable:
    """Read the variants of `wild_type` in a column of a table, by default a usual one.

    Synonymous variants, stop codons, insertions and deletions are kept without a variant, and
    counted in the log.

    Raises:
        UserError: the file is no table or has no such column, or a row is no variant of
            `wild_type`.
    """
    known = VARIANT_COLUMNS if column is None else (plain_name(column),)
    names, cells = read_table(path, known)
    chosen = next((name for name in known if name in names), None)
    if chosen is None:
        raise UserError(
            f"{path}: has the columns {', '.join(names) or 'none'}; expected one of variants: "
            f"{', '.join(known)}{'' if column else ', or its name as --column'}"
        )
    texts = ["" if row[chosen] is None else str(row[chosen]) for row in cells]
    rows = []
    reasons: Counter[str] = Counter()
    for number, text in enumerate(texts, start=1):
        try:
            variant = parse_variant(text, wild_type, offset=offset, others=texts)
            rows.append(VariantRow(text=text, variant=variant))
        except VariantError as error:
            if error.reason not in _UNSCORED:
                raise UserError(f"{path}: row {number}: {error}") from error
            reasons[error.reason] += 1
            rows.append(VariantRow(text=text, variant=None, problem=error.reason))
    if reasons:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        _log.warning(
            "%s: %d of %d rows have no score: %s", path, reasons.total(), len(texts), counts
        )
    return VariantTable(rows=rows, offset=offset)
