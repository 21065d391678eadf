"""PDB files, as the archive and as programs write them.

Only ATOM, HETATM, TER, MODEL, ENDMDL, END, SEQRES and MODRES records are looked at:
https://www.wwpdb.org/documentation/file-format-content/format33/v3.3.html
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mode
from typing import Final

from esm1b.evaluation.structures.residues import (
    UNKNOWN,
    Atom,
    Contents,
    StructureError,
    number_in,
)

_COORDINATES_END: Final = 54  # columns of an atom record; some programs write no more
_OF_ATOMS: Final = ("ANISOU", "SIGATM", "SIGUIJ")  # records that follow that of their atom


@dataclass(kw_only=True)
class _Chain:
    atoms: list[Atom] = field(default_factory=list)
    before_end: int | None = None  # number of atoms before the first TER
    highest: float = -math.inf  # residue number before the last TER


_Name = tuple[str, str]
"""A chain's name, and where it has none, that of its segment."""


def read_pdb(text: str) -> Contents:
    """Return what a PDB file says; it may hold nothing.

    Where no chain is named, the segments are the chains. After its TER a chain goes on with
    higher residue numbers only: what begins anew is another molecule of the same name.

    Raises:
        StructureError: a coordinate is not a number.
    """
    lines = text.split("\n")
    chains, last = _first_model(lines)
    parents: dict[str, str] = {}
    rows: dict[str, list[str]] = {}
    for line in lines:
        if line[:6].upper() == "SEQRES":
            rows.setdefault(line[10:12].strip(), []).append(line)
        elif line[:6].upper() == "MODRES":
            parents.setdefault(line[12:15].strip(), line[24:27].strip())
    # Old entries have their own name where the segment's belongs, in all records.
    has_segments = len(chains) > 1 and not any(name for name, _ in chains)
    shown = {key: key[1] if has_segments else key[0] for key in chains}
    atoms: dict[str, list[Atom]] = {}
    for key, chain in chains.items():
        atoms.setdefault(shown[key], []).extend(_polymer_bound(chain))
    damaged = {name: reason for name, each in rows.items() if (reason := _damage(each))}
    if last and len(text.rstrip().rpartition("\n")[2]) < _COORDINATES_END:  # its last line
        damaged[shown[last]] = "the file ends within an atom record"
    return Contents(
        atoms=atoms,
        parents=parents,
        stated={name: names for name, each in rows.items() if (names := _names(each))},
        damaged=damaged,
        unfinished=shown[last] if last else None,
    )


def _first_model(lines: Sequence[str]) -> tuple[dict[_Name, _Chain], _Name | None]:
    """Return the chains, and the one whose polymer goes on where the file ends, if any."""
    chains: dict[_Name, _Chain] = {}
    key, chain, is_open = ("", ""), _Chain(), False
    for count, content in enumerate(lines, start=1):
        line = content.ljust(80)
        record = line[:6].upper()
        if record.startswith("ATOM") or record == "HETATM":
            name = line[20:22].strip()
            key = (name, "" if name else line[72:76].strip())
            chain = chains.setdefault(key, _Chain())
            is_open = chain.before_end is None
            atom = _atom(line, count)
            if atom.place[0] and (atom.loose or _number(atom, math.inf) > chain.highest):
                chain.atoms.append(atom)
        elif content.strip() and record not in _OF_ATOMS:
            is_open = False
            if record.startswith("TER"):
                numbers = [_number(atom, -math.inf) for atom in chain.atoms if not atom.loose]
                chain.highest = max(numbers, default=-math.inf)
                if chain.before_end is None:
                    chain.before_end = len(chain.atoms)
            elif chains and record in ("MODEL ", "ENDMDL", "END   "):
                break
    return chains, key if is_open else None


def _atom(line: str, count: int) -> Atom:
    name = line[12:16].strip().upper()
    element = line[76:78].strip().upper()
    return Atom(
        place=(line[22:26].strip(), line[26].strip()),
        residue=line[17:20].strip().upper(),
        name=name,
        # Without an element, the alpha carbon's name begins one column after calcium's.
        element=element if element.isalpha() else line[12:14].strip().upper(),
        location=line[16].strip(),
        occupancy=number_in(float, line[54:60], 1.0),
        position=_position(line, count),
        loose=line[:6].upper() == "HETATM",
    )


def _position(line: str, count: int) -> tuple[float, float, float]:
    if len(line.rstrip()) < _COORDINATES_END:
        return UNKNOWN
    texts = [line[start : start + 8].strip() for start in (30, 38, 46)]
    try:
        x, y, z = (float(text.strip("*") or "nan") for text in texts)
    except ValueError:
        where = " ".join(texts)
        raise StructureError(
            f"line {count}: coordinates {where!r}; expected three numbers"
        ) from None
    return UNKNOWN if not math.isfinite(x + y + z) else (x, y, z)


def _number(atom: Atom, otherwise: float) -> float:
    return number_in(int, atom.place[0], otherwise)


def _polymer_bound(chain: _Chain) -> list[Atom]:
    """Return the atoms, those before the first TER as parts of the polymer that it ends."""
    polymer = chain.atoms[: chain.before_end or 0]
    return [atom._replace(loose=False) for atom in polymer] + chain.atoms[len(polymer) :]


def _names(rows: Sequence[str]) -> list[str]:
    """Return the residue names of SEQRES records in the order of their serial numbers."""
    distinct = list(dict.fromkeys(rows))
    serials = [row[7:10].strip() for row in distinct]
    if all(serial.isdecimal() for serial in serials) and len(set(serials)) == len(serials):
        distinct.sort(key=lambda row: int(row[7:10]))
    return [name for row in distinct for name in row[19:70].upper().split()]


def _damage(rows: Sequence[str]) -> str | None:
    """Return why SEQRES records contradict themselves, None if they do not."""
    counts = [row[12:17].strip() for row in rows]
    numbers = [int(count) for count in counts if count.isdecimal()]
    listed = len(_names(rows))
    if numbers and mode(numbers) != listed:
        return f"SEQRES lists {listed} residues and says that there are {mode(numbers)}"
    return None
