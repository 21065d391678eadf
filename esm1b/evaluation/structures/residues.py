"""Atom records of a chain, and the residues that they make."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain as chained
from operator import attrgetter
from typing import Final, NamedTuple, TypeVar

import numpy as np
from Bio.Data.PDBData import protein_letters_3to1, protein_letters_3to1_extended
from numpy.typing import NDArray

from esm1b.evaluation.structures.alignment import bonded_segments

UNKNOWN: Final = (math.nan, math.nan, math.nan)

Number = TypeVar("Number", int, float)

_occupancy = attrgetter("occupancy")
_BACKBONE: Final = ("N", "CA", "C", "CB")
# What simulation programs call histidine, cystine and aspartic acid; no residues of the archive.
_OF_FORCE_FIELDS: Final = {"HID": "H", "HIE": "H", "HSD": "H", "HSP": "H", "CYX": "C", "ASH": "D"}
_LETTERS: Final = {**_OF_FORCE_FIELDS, **protein_letters_3to1_extended, **protein_letters_3to1}


class StructureError(Exception):
    """A structure file or one of its chains cannot be used; the message gives the reason."""


class Atom(NamedTuple):
    """An atom record: only `name` and `residue` are always known.

    `place` is the residue's number and insertion code as they are written, `position` is in
    angstrom, NaN where unknown. An atom is `loose` where the file does not say that its residue
    belongs to a polymer: in a HETATM record, unless the file says so.
    """

    place: tuple[str, str]
    residue: str
    name: str
    element: str
    location: str
    occupancy: float
    position: tuple[float, float, float]
    loose: bool

    def is_calcium(self) -> bool:
        """Return whether the atom is a calcium ion, whose name is that of the alpha carbon too."""
        return self.residue == "CA" or (self.element == "CA" and self.residue not in _LETTERS)


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a structure file says of its first model, by chain; chains are named by the author.

    Attributes:
        atoms: atom records in the order of the file
        parents: names of standard amino acids by those of the residues modified from them
        stated: names of all residues of a chain, with coordinates or not
        numbered: chains whose residue numbers are places in `stated`, from 1
        damaged: reasons why a chain cannot be used
        unfinished: name of the chain after whose atoms the file ends without a mark, if any
    """

    atoms: Mapping[str, Sequence[Atom]]
    parents: Mapping[str, str]
    stated: Mapping[str, Sequence[str]]
    numbered: frozenset[str] = frozenset()
    damaged: Mapping[str, str] = field(default_factory=dict)
    unfinished: str | None = None


@dataclass(frozen=True, kw_only=True)
class Residue:
    """A residue that a file shows; `atoms` are N, CA, C and CB, `[4, 3]`, NaN where unknown."""

    letter: str
    number: int
    loose: bool
    atoms: NDArray[np.float64]


def number_in(kind: Callable[[str], Number], text: str, otherwise: Number) -> Number:
    """Return the number that a text is, or the other one where it is none."""
    try:
        return kind(text)
    except ValueError:
        return otherwise


def chain_label(name: str) -> str:
    """Return what a chain is called in messages."""
    return f"chain {name}" if name else "unnamed chain"


def amino_acid(name: str, parents: Mapping[str, str]) -> str | None:
    """Return the letter of a residue name; the parent that the file states comes first."""
    if name in protein_letters_3to1:
        return str(protein_letters_3to1[name])
    return protein_letters_3to1.get(parents.get(name, "")) or _LETTERS.get(name)


def protein_residues(atoms: Sequence[Atom], parents: Mapping[str, str]) -> list[Residue]:
    """Return the amino acid residues of a chain in the order of the file, none if it has none.

    A loose residue counts if it is tied by peptide bonds to one that is not, as MSE is, or if it
    is a known amino acid in the midst of the chain. A free amino acid or a ligand does not.

    Raises:
        StructureError: two residues have the same number.
    """
    places: dict[tuple[str, str], dict[str, dict[tuple[str, str], Atom]]] = {}
    previous, has_returned = None, False
    for atom in atoms:
        if not atom.is_calcium():
            if atom.place != previous:
                previous, has_returned = atom.place, atom.place in places
            conformers = places.setdefault(atom.place, {}).setdefault(atom.residue, {})
            first = conformers.setdefault((atom.name, atom.location), atom)
            if has_returned and atom.name == "CA" and atom.position != first.position:
                number = "".join(atom.place)
                raise StructureError(f"residue {number} occurs twice; expected chains told apart")
    found: list[Residue] = []
    for (number, _), conformers_by_name in places.items():
        types = {
            name: conformers
            for name, conformers in conformers_by_name.items()
            if amino_acid(name, parents) or any(atom == "CA" for atom, _ in conformers)
        }
        if types:
            after = found[-1].number + 1 if found else 1
            found.append(_best_conformer(types, number_in(int, number, after), parents))
    bound = [index for index, residue in enumerate(found) if not residue.loose]
    kept = [
        residue
        for start, stop in bonded_segments([residue.atoms for residue in found])
        for index, residue in enumerate(found[start:stop], start=start)
        if not all(each.loose for each in found[start:stop])
        or (residue.letter != "X" and bound and index < bound[-1])
    ]
    return kept if any(residue.letter != "X" for residue in kept) else []


def _best_conformer(
    types: Mapping[str, Mapping[tuple[str, str], Atom]], number: int, parents: Mapping[str, str]
) -> Residue:
    """Return the conformer whose CA has the highest occupancy, the first of equals.

    Args:
        types: atoms by name and alternate location, by the residue types at one place.
        number: number of the residue.
        parents: see `amino_acid`.
    """
    every = list(chained.from_iterable(atoms.values() for atoms in types.values()))
    known = [atom for atom in every if not math.isnan(atom.position[0])] or every
    best = max([atom for atom in known if atom.name == "CA"] or known, key=_occupancy)
    return Residue(
        letter=amino_acid(best.residue, parents) or "X",
        number=number,
        loose=best.loose,
        atoms=np.array([_position(types[best.residue], name, best.location) for name in _BACKBONE]),
    )


def _position(
    conformers: Mapping[tuple[str, str], Atom], name: str, location: str
) -> tuple[float, float, float]:
    """Return where an atom is at an alternate location, or else at its most occupied one."""
    if (name, location) in conformers:
        return conformers[name, location].position
    others = [atom for (each, _), atom in conformers.items() if each == name]
    return max(others, key=_occupancy).position if others else UNKNOWN
