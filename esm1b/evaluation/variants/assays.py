"""An assay: a protein, variants of it and the measured effect of each."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from esm1b.errors import UserError
from esm1b.evaluation.bootstrap import Values
from esm1b.scoring.mutations import Variant, VariantError, matching_offset, parse_variant
from esm1b.scoring.variant_table import VARIANT_COLUMNS
from esm1b.table_file import Row, plain_name

_log = logging.getLogger(__name__)

# Sequences count where no other column has the variants: ProteinGym has both.
*_VARIANT, _SEQUENCE = VARIANT_COLUMNS
_SCORE: Final = ("dms_score", "score", "fitness", "effect")
_BIN: Final = "dms_score_bin"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns of measurements as the user names them; None is found by name.

    Attributes:
        variant: column of the mutations.
        score: column of the measured effects; higher is fitter.
        compared: columns of other predictions, to compare with.
        offset: number of the first residue of the wild type.
    """

    variant: str | None = None
    score: str | None = None
    compared: tuple[str, ...] = ()
    offset: int = 1

    @property
    def names(self) -> set[str]:
        """All names that a column of interest may have."""
        named = (self.variant, self.score, *self.compared)
        return {*VARIANT_COLUMNS, *_SCORE, _BIN, *(plain_name(name) for name in named if name)}


@dataclass(frozen=True, kw_only=True)
class AssaySource:
    """An assay that has not been read yet.

    Attributes:
        name: name of the assay.
        protein: unit of the bootstrap over proteins.
        category: kind of property that is measured, for ProteinGym's mean; None where not stated.
        kind: test or unseen, subsets of the results; None where not stated.
        wild_type: upper-case sequence.
        cutoff: least measured effect that counts as fit, where rows do not state it.
        read: function that returns the path, the columns and the rows of the table.
    """

    name: str
    protein: str
    category: str | None = None
    kind: str | None = None
    wild_type: str
    cutoff: float | None = None
    read: Callable[[], tuple[Path, Sequence[str], Sequence[Row]]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Assay:
    """Measured effects of variants of a protein, those that can be scored.

    Attributes:
        source: name, protein and subset of the assay.
        variants: variants in the order of the table.
        measured: measured effects, `[variants]`.
        fit: True where the effect counts as fit, `[variants]`; None where that is not known.
        compared: other predictions by column, `[variants]` each.
        left_out: numbers of rows that cannot be scored, by reason.
    """

    source: AssaySource
    variants: Sequence[Variant]
    measured: Values
    fit: NDArray[np.bool_] | None
    compared: Mapping[str, Values]
    left_out: Mapping[str, int]

    @property
    def mutations(self) -> NDArray[np.int64]:
        """Number of mutations of each variant, `[variants]`."""
        return np.array([len(variant.mutations) for variant in self.variants])

    @property
    def positions(self) -> NDArray[np.int64]:
        """First mutated position of each variant, `[variants]`: the unit within an assay."""
        return np.array([variant.mutations[0].position for variant in self.variants])


def read_assay(source: AssaySource, columns: Columns) -> Assay:
    """Read the rows of an assay; those that cannot be scored are left out, counted and told.

    Of several rows with the same mutations the first counts.

    Raises:
        UserError: a column is missing or ambiguous, the wild-type letters agree at another offset,
            or fewer than two different effects are left.
    """
    path, names, rows = source.read()
    where = f"{path}: assay {source.name}" if source.name != path.name else f"{path}"
    variant_column = _column(path, names, columns.variant, _VARIANT, "--variant-column", _SEQUENCE)
    score_column = _column(path, names, columns.score, _SCORE, "--score-column")
    compared = [plain_name(name) for name in columns.compared]
    for name in compared:
        if name not in names:
            raise UserError(f"{path}: has no column {name}; it has {_listed(names)}")
    left_out: Counter[str] = Counter()
    first_problem = ""
    found: dict[tuple[Any, ...], tuple[Variant, list[float], float]] = {}
    for row in rows:
        text = row[variant_column]
        try:
            variant = parse_variant(
                "" if text is None else str(text), source.wild_type, offset=columns.offset
            )
        except VariantError as error:
            first_problem = first_problem or f" (first problem: {error})"
            left_out[error.reason] += 1
            continue
        numbers = [cell_number(row[name]) for name in (score_column, *compared)]
        if not all(map(math.isfinite, numbers)):
            missing = not math.isfinite(numbers[0])
            left_out["no measured value" if missing else "no other prediction"] += 1
        elif variant.mutations in found:
            left_out["duplicate"] += 1
        else:
            found[variant.mutations] = (variant, numbers, cell_number(row.get(_BIN)))
    texts = [str(row[variant_column]) for row in rows]
    _check_offset(where, texts, source.wild_type, columns.offset, left_out)
    if left_out:
        told = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())
        _log.warning("%s: left out %d of %d rows: %s", where, left_out.total(), len(rows), told)
    variants = [variant for variant, _, _ in found.values()]
    values = np.array([numbers for _, numbers, _ in found.values()], dtype=np.float64)
    if len(np.unique(values[:, 0] if len(values) else values)) < 2:
        raise UserError(
            f"{where}: {len(found)} of {len(rows)} rows can be used; expected at least two "
            f"different measured effects{first_problem}"
        )
    bins = np.array([label for _, _, label in found.values()])
    return Assay(
        source=source,
        variants=variants,
        measured=values[:, 0],
        fit=_fit(where, bins, values[:, 0], source.cutoff),
        compared={name: values[:, 1 + place] for place, name in enumerate(compared)},
        left_out=dict(left_out),
    )


def cell_number(value: Any) -> float:
    """Return a cell as a number; NaN where it is none, such as `NA`."""
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError):
        return math.nan


def _column(
    path: Path,
    columns: Sequence[str],
    named: str | None,
    known: Sequence[str],
    option: str,
    otherwise: str | None = None,
) -> str:
    """Return the column that the user named, or the one with a known name."""
    if named is not None:
        if plain_name(named) in columns:
            return plain_name(named)
        raise UserError(f"{path}: has no column {named}; it has {_listed(columns)}")
    found = [name for name in known if name in columns]
    if not found and otherwise in columns:
        return str(otherwise)
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{path}: has the columns {', '.join(found)}; name one with {option}")
    raise UserError(
        f"{path}: has no column {', '.join(known[:-1])} or {known[-1]}; name one of "
        f"{_listed(columns)} with {option}"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(filter(None, names))[:200] or "none"


def _check_offset(
    where: str, texts: Sequence[str], wild_type: str, offset: int, left_out: Mapping[str, int]
) -> None:
    """Raise if the letters disagree but all agree with another offset: nothing would be right."""
    if not {"other wild type", "position outside"} & set(left_out):
        return
    fitting = matching_offset(texts, wild_type)
    if fitting not in (None, offset):
        raise UserError(
            f"{where}: wild-type letters disagree with the wild type at offset {offset}; all "
            f"agree with --offset {fitting}"
        )


def _fit(
    where: str, labels: Values, measured: Values, cutoff: float | None
) -> NDArray[np.bool_] | None:
    """Return which variants are fit: as stated in each row, or by the cutoff."""
    if np.isnan(labels).all():
        return None if cutoff is None else measured >= cutoff
    if not np.isin(labels, (0, 1)).all():
        raise UserError(f"{where}: {_BIN} has other values than 0 and 1; expected one in each row")
    fit: NDArray[np.bool_] = labels == 1
    return fit
