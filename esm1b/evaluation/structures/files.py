"""One protein chain out of a PDB or mmCIF file, aligned to its full sequence.

The first model counts; per residue the conformer of the highest occupancy (the first of equals),
also where two residue types share one position.
"""

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from esm1b.errors import UserError
from esm1b.evaluation.structures.alignment import bonded_segments, place_segments
from esm1b.evaluation.structures.binary_cif import is_binary_cif, read_binary_cif
from esm1b.evaluation.structures.mmcif import read_mmcif
from esm1b.evaluation.structures.pdb import read_pdb
from esm1b.evaluation.structures.residues import (
    Contents,
    Residue,
    StructureError,
    amino_acid,
    chain_label,
    protein_residues,
)
from esm1b.files import read_content

MINIMUM_RESIDUES: Final = 20

_NAME: Final = re.compile(r"(.+)\.(?:pdb\d*|ent|b?cif|mmcif)(?:\.(?:gz|bz2|xz))?", re.IGNORECASE)
_MMCIF: Final = re.compile(r"^[ \t]*(data_|_atom_site\.)", re.IGNORECASE | re.MULTILINE)
# With fewer matches than this between observed residues and stated sequence, a file is damaged.
_LEAST_AGREEMENT: Final = 0.9
# More residues than this share of a chain missing at its end, where the file ends, are cut off.
_MOST_CUT_OFF: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class ProteinChain:
    """A chain as its file states it.

    `sequence` has all residues, modified ones as their parent amino acid and unknown ones as X;
    `backbone` holds N, CA, C and CB, `[length, 4, 3]` in angstrom, NaN for missing atoms.
    """

    name: str
    sequence: str
    backbone: NDArray[np.float64]


def structure_name(path: Path) -> str | None:
    """Return the name without suffixes, `1aba` for `1aba.pdb.gz`, None if it is no structure's."""
    match = _NAME.fullmatch(path.name)
    return match[1] if match else None


def read_chain(path: Path, chain: str | None = None) -> ProteinChain | None:
    """Return the named chain of a structure file, or the first with at least 20 residues, or None.

    The format is told by the content. A chain is named as its author does, "" if not at all.

    Raises:
        UserError: the file cannot be read, or lacks the named chain, or its coordinates do not fit
            its sequence.
    """
    content = read_content(path)
    try:
        contents = read_binary_cif(content) if is_binary_cif(content) else _read_text(content)
        found = _find_chain(contents, chain)
        return found and _align(contents, *found)
    except StructureError as error:
        raise UserError(f"{path}: {error}") from error


def _read_text(content: bytes) -> Contents:
    text = content.removeprefix(codecs.BOM_UTF8).decode("latin-1")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return (read_mmcif if _MMCIF.search(text) else read_pdb)(text)


def _find_chain(contents: Contents, chain: str | None) -> tuple[str, list[Residue]] | None:
    """Return a chain and its residues with coordinates; for `chain` and errors see `read_chain`."""
    proteins = []
    for name in sorted(contents.atoms, key=lambda each: each != chain):  # the named one first
        if seen := protein_residues(contents.atoms[name], contents.parents):
            if name == chain or (chain is None and len(seen) >= MINIMUM_RESIDUES):
                return name, seen
            proteins.append(name)
    if not proteins:
        raise StructureError("holds no protein residue; expected a PDB or mmCIF structure")
    if chain is not None:
        raise StructureError(f"no protein chain {chain!r}; expected one of {', '.join(proteins)}")
    return None


def _align(contents: Contents, chain: str, seen: Sequence[Residue]) -> ProteinChain:
    """Return the chain with its residues with coordinates placed in the stated sequence."""
    atoms = np.array([residue.atoms for residue in seen])
    source = _stated_for(contents, chain)
    for name in (chain, source):
        if name is not None and name in contents.damaged:
            raise StructureError(f"{chain_label(name)}: {contents.damaged[name]}")
    observed = "".join(residue.letter for residue in seen)
    numbers = [residue.number for residue in seen]
    if source is None:  # the residues with coordinates are all that is known
        sequence = observed
        positions: Sequence[int] = range(len(seen))
    else:
        names = contents.stated[source]
        sequence = "".join(amino_acid(name, contents.parents) or "X" for name in names)
        if chain in contents.numbered:
            positions = [number - 1 for number in numbers]
        else:
            positions = place_segments(sequence, observed, numbers, bonded_segments(atoms))
    inside = [
        (position, letter)
        for position, letter in zip(positions, observed, strict=False)
        if 0 <= position < len(sequence)
    ]
    agreeing = sum(sequence[position] == letter for position, letter in inside)
    if len(inside) < len(seen) or agreeing < _LEAST_AGREEMENT * len(seen):
        raise StructureError(
            f"{chain_label(chain)}: {agreeing} of {len(seen)} residues with coordinates fit its "
            f"sequence of {len(sequence)}; expected at least {_LEAST_AGREEMENT:.0%}"
        )
    missing = len(sequence) - 1 - max(positions)
    if contents.unfinished == chain and missing > _MOST_CUT_OFF * len(sequence):
        raise StructureError(
            f"the file ends {missing} residues before the end of {chain_label(chain)}; "
            "expected TER or END after its atoms, or # in mmCIF"
        )
    backbone = np.full((len(sequence), *atoms.shape[1:]), np.nan)
    backbone[np.array(positions)] = atoms
    return ProteinChain(name=chain, sequence=sequence, backbone=backbone)


def _stated_for(contents: Contents, chain: str) -> str | None:
    """Return the chain under whose name the sequence is stated, None if it is not.

    Some programs lose the name in some records: the only sequence is that of the only protein.
    """
    if chain in contents.stated or chain in contents.damaged:
        return chain
    proteins = [
        name for name, atoms in contents.atoms.items() if protein_residues(atoms, contents.parents)
    ]
    return next(iter(contents.stated)) if len(contents.stated) == 1 == len(proteins) else None
