"""Sequences with three-state secondary structure, from a table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from esm1b.alphabet import SECONDARY_STRUCTURE
from esm1b.errors import UserError
from esm1b.evaluation.structures.proteins import Protein
from esm1b.evaluation.structures.table import cell_text, check_columns, protein_of, row_label
from esm1b.table_file import Row, read_table

_KINDS_BY_SPLIT: Final[Mapping[str, str]] = {
    "train": "fit",
    "fit": "fit",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "unseen": "unseen",
}
# Names of the optional columns; the second of each is that of the structure table or of FLIP.
_SPLIT: Final = ("split", "kind")
_OBSERVED: Final = ("observed", "resolved")
_IDS: Final = ("id", "chain_id")  # where both are there, the first names the row
_COLUMNS: Final = ("sequence", "ss3", "group", *_SPLIT, *_OBSERVED, *_IDS)


def read_labelled_proteins(path: Path) -> list[Protein]:
    """Return the proteins of a table with `sequence` and `ss3` in each row, sorted by id.

    `id` or `chain_id`, or else the row number, is the id; `group` is the bootstrap's unit, by
    default the id; `split` (train, valid, test; or `kind`, as in a structure table) sets the kind;
    `observed` or `resolved` has a 1 for each residue whose label counts. For the formats see
    `read_table`.

    Raises:
        UserError: the table cannot be read, lacks a column, is empty, or a row contradicts itself.
    """
    if path.is_dir():
        raise UserError(
            f"{path}: is a folder; expected a table with the columns sequence and ss3 "
            "(CSV, TSV, Parquet or Arrow)"
        )
    columns, rows = read_table(path, _COLUMNS)
    check_columns(path, ("sequence", "ss3"), columns, rows=len(rows))
    for pair in (_SPLIT, _OBSERVED):
        if set(pair) <= set(columns):
            raise UserError(f"{path}: has the columns {' and '.join(pair)}; expected one of them")
    named_by = _which(_IDS, columns)
    width = len(str(len(rows)))
    proteins: dict[str, Protein] = {}
    for number, row in enumerate(rows, start=1):
        where = f"{path}: row {number}"
        identifier = cell_text(row, named_by, where) if named_by else f"{number:0{width}d}"
        if identifier is None:
            raise UserError(f"{where}: {named_by} is empty; expected a name")
        where = row_label(path, f"{number} ({identifier})")
        if identifier in proteins:
            raise UserError(f"{where}: the id occurs twice; expected it once")
        proteins[identifier] = _protein(where, identifier, row, columns)
    return [proteins[identifier] for identifier in sorted(proteins)]


def state_labels(protein: Protein) -> NDArray[np.int8]:
    """Return the index in HEC of every residue `[length]`; -1 where the label is not known."""
    labels = np.full(protein.residues.size, -1, dtype=np.int8)
    letters = np.frombuffer((protein.ss3 or "").encode("latin-1"), dtype=np.uint8)
    for label, state in enumerate(SECONDARY_STRUCTURE):
        labels[(letters == ord(state)) & protein.observed] = label
    return labels


def _protein(where: str, identifier: str, row: Row, columns: Sequence[str]) -> Protein:
    sequence, ss3 = (cell_text(row, column, where) for column in ("sequence", "ss3"))
    group = cell_text(row, "group", where) if "group" in columns else identifier
    seen_in = _which(_OBSERVED, columns)
    # An empty cell is not taken for "all": whoever states what counts states it in every row.
    observed = cell_text(row, seen_in, where) if seen_in else "1" * len(sequence or "")
    cells: dict[str, Any] = {
        **{"id": identifier, "group": group, "kind": None, "sequence": sequence},
        **{"observed": observed, "contact_i": [], "contact_j": [], "ss3": ss3},
    }
    protein = protein_of(cells, where, observed=seen_in or "observed")
    if ss3 is None:
        raise UserError(f"{where}: ss3 is empty; expected H, E or C per residue")
    stated_in = _which(_SPLIT, columns)
    split = cell_text(row, stated_in, where) if stated_in else None
    if split is None:
        return protein
    if split.lower() not in _KINDS_BY_SPLIT:
        raise UserError(f"{where}: {stated_in} is {split!r}; expected train, valid or test")
    return replace(protein, kind=_KINDS_BY_SPLIT[split.lower()])


def _which(names: Sequence[str], columns: Sequence[str]) -> str | None:
    """Return the first of `names` that is a column."""
    return next((name for name in names if name in columns), None)
