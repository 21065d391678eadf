"""The structure table of a folder of PDB and mmCIF files."""

import csv
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from esm1b.errors import UserError
from esm1b.evaluation.structures.files import SUFFIXES, read_chain, read_text, structure_name
from esm1b.evaluation.structures.geometry import Glycine, beta_carbons, contact_pairs

_log = logging.getLogger(__name__)


def read_folder(folder: Path, *, glycine: Glycine) -> list[dict[str, Any]]:
    """Return the rows of the structure table of a folder of structure files, sorted by id.

    Raises:
        UserError: the folder has no structures or a file cannot be read.
    """
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.name.removesuffix(".gz").endswith(SUFFIXES) and not file.name.startswith(".")
    )
    if not files:
        raise UserError(
            f"{folder}: holds no structure; expected files named *.pdb, *.ent or *.cif, "
            "plain or .gz"
        )
    chosen = _chosen_chains(folder / "chains.csv")
    rows: dict[str, dict[str, Any]] = {}
    for file in tqdm(files, desc="structures", unit="file", disable=None):
        name = chosen.get(file.name) or chosen.get(structure_name(file).lower())
        chain = read_chain(file, name)
        if chain is None:
            _log.warning("%s: left out, no protein chain of 20 residues or more", file)
            continue
        identifier = f"{structure_name(file)}_{chain.name}"
        if identifier in rows:
            raise UserError(f"{file}: {identifier} is in {folder} twice; expected it once")
        beta = beta_carbons(chain.sequence, chain.backbone, glycine=glycine)
        first, second = contact_pairs(beta)
        rows[identifier] = {
            "id": identifier,
            "group": identifier,
            "kind": None,
            "sequence": chain.sequence,
            "observed": "".join("0" if np.isnan(atom).any() else "1" for atom in beta),
            "contact_i": first.tolist(),
            "contact_j": second.tolist(),
            "ss3": None,
        }
    if not rows:
        raise UserError(f"{folder}: no file holds a protein chain of 20 residues or more")
    return [rows[identifier] for identifier in sorted(rows)]


def _chosen_chains(path: Path) -> Mapping[str, str]:
    """Return the chain to use by file name or lower-case PDB id; the first row of each counts."""
    if not path.exists():
        return {}
    reader = csv.DictReader(io.StringIO(read_text(path, "utf-8-sig"), newline=""))
    try:
        rows = list(reader)
    except csv.Error as error:
        raise UserError(f"{path}: cannot be read as CSV: {error}") from error
    columns = reader.fieldnames or []
    if "chain" not in columns or not {"file", "pdb_id"} & set(columns):
        raise UserError(
            f"{path}: has the columns {', '.join(columns) or 'none'}; "
            "expected chain and file or pdb_id"
        )
    chosen: dict[str, str] = {}
    for row in rows:
        if row.get("main", "1") == "1":
            file = row.get("file")
            key = Path(file).name if file else str(row["pdb_id"]).lower()
            chosen.setdefault(key, row["chain"] or "")
    return chosen
