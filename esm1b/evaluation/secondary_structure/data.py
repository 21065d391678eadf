"""Sequences with three-state secondary structure, from a CSV or a structure table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from esm1b.alphabet import SECONDARY_STRUCTURE
from esm1b.errors import UserError
from esm1b.evaluation.structures.proteins import Protein, protein_of, proteins_of
from esm1b.evaluation.structures.table import (
    check_columns,
    find_problems,
    read_csv,
    read_structures,
)

_KINDS_BY_SPLIT: Final[Mapping[str, str]] = {
    "train": "fit",
    "fit": "fit",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "unseen": "unseen",
}


def read_labelled_proteins(path: Path) -> list[Protein]:
    """Return the proteins of a table with `ss3` in each, sorted by id.

    A CSV (plain or .gz) has the columns `sequence` and `ss3`; `id` or `chain_id`, or else the row
    number is the id; `split` (train, valid, test) sets the kind; `observed` or `resolved` has a 1
    for each residue whose label counts. Each row is its own group. Anything else is read as a
    structure table.

    Raises:
        UserError: the table cannot be read, lacks a column, is empty, or a row contradicts itself.
    """
    if path.name.removesuffix(".gz").endswith(".csv"):
        return _read_csv(path)
    if path.is_dir():
        raise UserError(
            f"{path}: is a folder; expected a CSV with sequence and ss3, or a structure table"
        )
    proteins = proteins_of(read_structures(path), path)
    for protein in proteins:
        if protein.ss3 is None:
            raise UserError(
                f"{path}: row {protein.id}: ss3 is null; expected H, E or C per residue"
            )
    return proteins


def state_labels(protein: Protein) -> NDArray[np.int8]:
    """Return the index in HEC of every residue `[length]`; -1 where the label is not known."""
    labels = np.full(protein.residues.size, -1, dtype=np.int8)
    letters = np.frombuffer((protein.ss3 or "").encode("latin-1"), dtype=np.uint8)
    for label, state in enumerate(SECONDARY_STRUCTURE):
        labels[(letters == ord(state)) & protein.observed] = label
    return labels


def _read_csv(path: Path) -> list[Protein]:
    columns, rows = read_csv(path)
    check_columns(path, ("sequence", "ss3"), columns, rows=len(rows))
    named_by = next((column for column in ("id", "chain_id") if column in columns), None)
    width = len(str(len(rows)))
    proteins: dict[str, Protein] = {}
    for number, row in enumerate(rows, start=1):
        identifier = (row[named_by] or "") if named_by else f"{number:0{width}d}"
        where = f"{path}: row {number} ({identifier})"
        if not identifier:
            raise UserError(f"{path}: row {number}: {named_by} is empty; expected a name")
        if identifier in proteins:
            raise UserError(f"{where}: the id occurs twice; expected it once")
        proteins[identifier] = _protein(where, identifier, row)
    return [proteins[identifier] for identifier in sorted(proteins)]


def _protein(where: str, identifier: str, row: Mapping[str, str | None]) -> Protein:
    sequence = row["sequence"] or ""
    structure: dict[str, Any] = {
        "id": identifier,
        "group": identifier,
        "kind": None,
        "sequence": sequence,
        "observed": row.get("observed") or row.get("resolved") or "1" * len(sequence),
        "contact_i": [],
        "contact_j": [],
        "ss3": row["ss3"] or "",
    }
    for problem in find_problems(structure):
        raise UserError(f"{where}: {problem}")
    split = row.get("split")
    if split and split not in _KINDS_BY_SPLIT:
        raise UserError(f"{where}: split is {split!r}; expected train, valid or test")
    kind = _KINDS_BY_SPLIT[split] if split else None
    return protein_of({**structure, "kind": kind}, where)
