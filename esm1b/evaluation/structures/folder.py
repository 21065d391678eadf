"""The proteins of a folder of PDB and mmCIF files."""

import logging
from pathlib import Path
from typing import Final

import numpy as np
from tqdm import tqdm

from esm1b.alphabet import encode
from esm1b.errors import UserError
from esm1b.evaluation.structures.chain_choice import CHOICES, first_named, read_choices
from esm1b.evaluation.structures.files import MINIMUM_RESIDUES, read_chain, structure_name
from esm1b.evaluation.structures.geometry import Glycine, beta_carbons, contact_pairs
from esm1b.evaluation.structures.proteins import Protein
from esm1b.evaluation.structures.residues import chain_label

_log = logging.getLogger(__name__)

# What lies beside structures and is told from them at a glance.
_OTHERS: Final = (".fa", ".fasta", ".json", ".md", ".txt")


def read_folder(folder: Path, *, glycine: Glycine) -> list[Protein]:
    """Return the proteins of a folder of structure files, sorted by id.

    What cannot be used is left out with a warning that names file and reason, and counted, except
    a file that `chains.csv` names.

    Raises:
        UserError: no file can be used, `chains.csv` names something else than one usable chain, or
            two files have the same name and chain.
    """
    files = _structure_files(folder)
    chosen = read_choices(folder, files)
    proteins: dict[str, Protein] = {}
    left_out: list[str] = []
    for file in tqdm(files, desc="structures", unit="file", disable=None):
        try:
            protein = _read_protein(file, chosen.get(file), glycine)
        except UserError as error:
            if file in chosen:
                raise
            left_out.append(str(error))
            continue
        if protein.id in proteins:
            raise UserError(f"{file}: {protein.id} is in {folder} twice; expected it once")
        proteins[protein.id] = protein
    for reason in left_out:
        _log.warning("left out: %s", reason)
    if left_out:
        _log.warning("%s: %d of %d files were left out", folder, len(left_out), len(files))
    if not proteins:
        raise UserError(
            f"{folder}: none of {len(files)} files can be used; the first is {left_out[0]}"
        )
    return [proteins[identifier] for identifier in sorted(proteins)]


def _structure_files(folder: Path) -> list[Path]:
    """Return the structure files in the folder and its subfolders, sorted; name what is no such."""
    paths = sorted(
        path
        for path in folder.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    files = [path for path in paths if structure_name(path) is not None]
    others = [
        path
        for path in paths
        if structure_name(path) is None
        and path.is_file()
        and path.suffix.lower() not in _OTHERS
        and not path.name.isalpha()  # such as README
        and not (path.parent == folder and path.name.lower() == CHOICES)
    ]
    if others:
        named = first_named([str(path.relative_to(folder)) for path in others])
        _log.warning("%s: passed over %d files of another kind: %s", folder, len(others), named)
    if not files:
        raise UserError(
            f"{folder}: holds no structure; expected files named *.pdb, *.ent, *.cif or *.mmcif, "
            "plain or .gz, .bz2 or .xz"
        )
    return files


def _read_protein(file: Path, chain_name: str | None, glycine: Glycine) -> Protein:
    """Return the protein in a file; for `chain_name` and errors see `read_chain`."""
    chain = read_chain(file, chain_name)
    if chain is None:
        raise UserError(f"{file}: no protein chain of {MINIMUM_RESIDUES} residues or more")
    if np.isnan(beta_carbons(chain.sequence, chain.backbone, glycine="impute")).any(axis=1).all():
        label = chain_label(chain.name)
        raise UserError(f"{file}: {label}: no residue has Cb, or N, CA and C to place one")
    beta = beta_carbons(chain.sequence, chain.backbone, glycine=glycine)
    identifier = f"{structure_name(file)}_{chain.name}"
    return Protein(
        id=identifier,
        group=identifier,
        kind=None,
        residues=encode(chain.sequence),
        observed=np.asarray(~np.isnan(beta).any(axis=1)),
        contacts=contact_pairs(beta),
    )
