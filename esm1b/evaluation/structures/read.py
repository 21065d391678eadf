"""Known structures, from a folder of PDB and mmCIF files or from a table."""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from esm1b.errors import UserError
from esm1b.evaluation.structures.files import SUFFIXES, read_chain, read_text, structure_name
from esm1b.evaluation.structures.geometry import Glycine, beta_carbons, contact_pairs
from esm1b.evaluation.structures.table import STRUCTURE_SCHEMA, validated_structures

_log = logging.getLogger(__name__)


def read_structures(path: Path, *, glycine: Glycine = "impute") -> pa.Table:
    """Return the structure table of a folder of structure files, or the one at `path` (Parquet).

    A folder is searched with its subfolders for `.pdb`, `.ent` and `.cif`, plain or `.gz`. One
    chain of each file is read: the one that `chains.csv` in the folder names (columns `chain` and
    `file` or `pdb_id`; where there is a column `main`, rows with 1), else the first protein chain
    with at least 20 residues. The sequence is the one the file states (SEQRES), or that of the
    residues with coordinates where it states none. A residue is observed if it has a Cb, or N, CA
    and C to place one.

    Rows are sorted by id. From a folder, `group` is the id, `kind` and `ss3` are null.

    Raises:
        UserError: the folder has no structures, a file cannot be read, or the table is not one.
    """
    if path.is_dir():
        return _read_folder(path, glycine)
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file or folder") from error
    except (OSError, pa.ArrowInvalid) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path}: expected a folder of structures or a Parquet table: {reason}"
        ) from error
    return validated_structures(path, table)


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


def _read_folder(folder: Path, glycine: Glycine) -> pa.Table:
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
            "contact_i": first,
            "contact_j": second,
            "ss3": None,
        }
    if not rows:
        raise UserError(f"{folder}: no file holds a protein chain of 20 residues or more")
    return pa.Table.from_pylist([rows[key] for key in sorted(rows)], schema=STRUCTURE_SCHEMA)


def _chosen_chains(path: Path) -> Mapping[str, str]:
    """Return the chain to use by file name or lower-case PDB id; the first row of each counts."""
    if not path.exists():
        return {}
    columns, rows = read_csv(path)
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
