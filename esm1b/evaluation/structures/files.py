"""One protein chain out of a PDB or mmCIF file, aligned to its full sequence.

Biopython reads the atoms. The first model counts; per residue the conformer of the highest
occupancy (the first of equals), also where two residue types share one position.
"""

import gzip
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from Bio.Data.PDBData import protein_letters_3to1, protein_letters_3to1_extended
from Bio.PDB.MMCIF2Dict import MMCIF2Dict
from Bio.PDB.MMCIFParser import MMCIFParser
from Bio.PDB.PDBParser import PDBParser
from numpy.typing import NDArray

from esm1b.errors import UserError
from esm1b.evaluation.structures.alignment import bonded_segments, place_segments

MINIMUM_RESIDUES: Final = 20
SUFFIXES: Final = (".pdb", ".ent", ".cif")

_BACKBONE: Final = ("N", "CA", "C", "CB")
_CA: Final = 1
# With fewer matches than this between observed residues and stated sequence, a file is damaged.
_LEAST_AGREEMENT: Final = 0.9


@dataclass(frozen=True, kw_only=True)
class ProteinChain:
    """A chain as its file states it.

    `sequence` has all residues, modified ones as their parent amino acid and unknown ones as X;
    `backbone` holds N, CA, C and CB, `[length, 4, 3]` in angstrom, NaN for missing atoms.
    """

    name: str
    sequence: str
    backbone: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Residue:
    letter: str
    number: int  # of the author in PDB, counted along the sequence in mmCIF
    modified: bool  # HETATM
    atoms: NDArray[np.float64]  # [4, 3]


_Chains = dict[str, list[_Residue]]
"""The residues with coordinates by chain."""


def read_text(path: Path, encoding: str) -> str:
    """Return the text of a file, unpacked where its name ends in `.gz`.

    Raises:
        UserError: the file is missing, damaged or in another encoding.
    """
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode(encoding)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def structure_name(path: Path) -> str:
    """Return the file's name without `.gz` and the format's suffix: `1aba` for `1aba.pdb.gz`."""
    return Path(path.name.removesuffix(".gz")).stem


def read_chain(path: Path, chain: str | None = None) -> ProteinChain | None:
    """Return the named chain of a structure file, or the first with at least 20 residues, or None.

    Raises:
        UserError: the file cannot be read, or lacks the named chain, or its coordinates do not fit
            its sequence.
    """
    text = read_text(path, "latin-1")
    is_cif = path.name.removesuffix(".gz").endswith(".cif")
    try:
        chains, sequences = _parse_cif(text) if is_cif else _parse_pdb(text)
    except Exception as error:  # Biopython's parsers raise errors of any type
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{path}: cannot be read as a structure: {reason}") from error
    if not chains:
        raise UserError(f"{path}: holds no protein residue; expected a PDB or mmCIF structure")
    long = (name for name, seen in chains.items() if len(seen) >= MINIMUM_RESIDUES)
    chain = next(long, None) if chain is None else chain
    if chain is None:
        return None
    if chain not in chains:
        raise UserError(f"{path}: no protein chain {chain!r}; expected one of {', '.join(chains)}")
    # In mmCIF a residue's number is its place in the sequence, from 1.
    return _align(path, chain, chains[chain], sequences.get(chain), numbered=is_cif)


def _parse_pdb(text: str) -> tuple[_Chains, dict[str, str]]:
    """Return the chains and the stated sequence of each."""
    first_model = text.split("\nENDMDL", 1)[0] + "\n"
    named: dict[str, list[str]] = {}
    parents: dict[str, str] = {}
    for line in first_model.splitlines():
        if line.startswith("SEQRES"):
            named.setdefault(line[11:12].strip(), []).extend(line[19:70].split())
        elif line.startswith("MODRES"):
            parents[line[12:15].strip()] = line[24:27].strip()
    structure = PDBParser(QUIET=True).get_structure("", io.StringIO(first_model))
    sequences = {chain: _letters(names, parents) for chain, names in named.items()}
    return _residues_by_chain(structure, parents), sequences


def _parse_cif(text: str) -> tuple[_Chains, dict[str, str]]:
    """Return the chains and the stated sequence of each."""
    table = MMCIF2Dict(io.StringIO(text))

    def rows(category: str, *columns: str) -> Iterator[Any]:
        return zip(*(table.get(f"_{category}.{column}", []) for column in columns), strict=True)

    parents = dict(rows("pdbx_struct_mod_residue", "label_comp_id", "parent_comp_id"))
    # label_seq_id counts along the sequence, for polymers only; chain names are the author's.
    parser = MMCIFParser(auth_residues=False, QUIET=True)
    chains = _residues_by_chain(parser.get_structure("", io.StringIO(text)), parents)
    by_entity: dict[str, dict[str, str]] = {}
    for entity, number, name in rows("entity_poly_seq", "entity_id", "num", "mon_id"):
        by_entity.setdefault(entity, {}).setdefault(number, name)  # the first of two at one place
    entities: dict[str, str] = {}
    for chain, entity, number in zip(
        table["_atom_site.auth_asym_id"],
        table.get("_atom_site.label_entity_id", []),
        table["_atom_site.label_seq_id"],
        strict=False,  # without entities there is nothing to look up
    ):
        if number != ".":
            entities.setdefault(chain, entity)
    sequences = {
        chain: _letters(list(by_entity[entity].values()), parents)
        for chain, entity in entities.items()
        if entity in by_entity
    }
    return chains, sequences


def _letters(names: Sequence[str], parents: Mapping[str, str]) -> str:
    return "".join(_letter(name, parents) or "X" for name in names)


def _letter(name: str, parents: Mapping[str, str]) -> str | None:
    """Return the amino acid of a residue name; the parent that the file states comes first."""
    if name in protein_letters_3to1:
        return str(protein_letters_3to1[name])
    parent = protein_letters_3to1.get(parents.get(name, ""))
    letter = parent or protein_letters_3to1_extended.get(name)
    return str(letter) if letter else None


def _residues_by_chain(structure: Any, parents: Mapping[str, str]) -> _Chains:
    """Return the residues of each chain of the first model, in the order of the file.

    A HETATM residue belongs to the chain if a peptide bond ties it to a neighbour: MSE does; a free
    amino acid, a ligand and a calcium ion (its atom is named CA too) do not.
    """
    chains = {}
    for chain in next(iter(structure), []):
        places: dict[tuple[int, str], list[Any]] = {}
        for residue in chain:
            _, number, insertion = residue.id
            places.setdefault((number, insertion), []).append(residue)
        best = (_best_conformer(number, each, parents) for (number, _), each in places.items())
        found = [residue for residue in best if residue is not None]
        kept = [
            residue
            for start, stop in bonded_segments([residue.atoms for residue in found])
            for residue in found[start:stop]
            if stop - start > 1 or not residue.modified
        ]
        if any(residue.letter != "X" for residue in kept):
            chains[str(chain.id)] = kept
    return chains


def _best_conformer(
    number: int, alternatives: Sequence[Any], parents: Mapping[str, str]
) -> _Residue | None:
    """Return the conformer whose CA has the highest occupancy, None where none has a CA."""
    best = max(
        _conformers(alternatives), key=lambda one: one[1][_CA].get_occupancy() or 0.0, default=None
    )
    if best is None:
        return None
    residue, atoms = best
    unknown = np.full(3, np.nan)
    coordinates = [unknown if atom is None else atom.get_coord() for atom in atoms]
    return _Residue(
        letter=_letter(residue.get_resname().strip(), parents) or "X",
        number=number,
        modified=residue.id[0].strip() != "",
        atoms=np.array(coordinates, dtype=np.float64),
    )


def _conformers(alternatives: Sequence[Any]) -> Iterator[tuple[Any, list[Any]]]:
    """Yield residues of one type that have a CA, with the atoms at each alternate location."""
    for place in alternatives:
        # 2 is Biopython's mark of a wrapper: around the residue types of one place, one in
        # each conformer, or around the locations of one atom.
        for residue in place.disordered_get_list() if place.is_disordered() == 2 else [place]:
            if "CA" in residue:
                alpha = residue["CA"]
                wrapped = alpha.is_disordered() == 2
                for location in alpha.disordered_get_id_list() if wrapped else [" "]:
                    yield residue, [_atom(residue, name, location) for name in _BACKBONE]


def _atom(residue: Any, name: str, location: str) -> Any:
    """Return an atom at an alternate location, or else at its most occupied one, or None."""
    if name not in residue:
        return None
    atom = residue[name]
    if atom.is_disordered() == 2:
        return atom.disordered_get(location) if atom.disordered_has_id(location) else atom
    return atom


def _align(
    path: Path, chain: str, seen: Sequence[_Residue], sequence: str | None, *, numbered: bool
) -> ProteinChain:
    observed = "".join(residue.letter for residue in seen)
    if sequence is None:  # the residues with coordinates are all that is known
        sequence = observed
        positions: Sequence[int] = range(len(seen))
    elif numbered:
        positions = [residue.number - 1 for residue in seen]
    else:
        positions = place_segments(
            sequence,
            observed,
            [residue.number for residue in seen],
            bonded_segments([residue.atoms for residue in seen]),
        )
    fits = len(positions) == len(seen) and max(positions) < len(sequence)
    agreeing = fits and sum(
        sequence[position] == letter for position, letter in zip(positions, observed, strict=True)
    )
    if agreeing < _LEAST_AGREEMENT * len(seen):
        raise UserError(
            f"{path}: chain {chain}: {agreeing} of {len(seen)} residues with coordinates fit its "
            f"sequence of {len(sequence)}; expected at least {_LEAST_AGREEMENT:.0%}"
        )
    backbone = np.full((len(sequence), len(_BACKBONE), 3), np.nan)
    backbone[np.array(positions)] = [residue.atoms for residue in seen]
    return ProteinChain(name=chain, sequence=sequence, backbone=backbone)
