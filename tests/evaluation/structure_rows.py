"""Proteins as the rows of the structure table that they were read from."""

from pathlib import Path
from typing import Any

from esm1b.alphabet import decode
from esm1b.evaluation.structures.proteins import Protein
from esm1b.evaluation.structures.table import read_structures


def structure_row(protein: Protein) -> dict[str, Any]:
    contact_i, contact_j = protein.contacts.tolist()
    return {
        "id": protein.id,
        "group": protein.group,
        "kind": protein.kind,
        "sequence": decode(protein.residues),
        "observed": "".join("1" if seen else "0" for seen in protein.observed),
        "contact_i": contact_i,
        "contact_j": contact_j,
        "ss3": protein.ss3,
    }


def structure_rows(path: Path, **options: Any) -> list[dict[str, Any]]:
    return [structure_row(protein) for protein in read_structures(path, **options)]
