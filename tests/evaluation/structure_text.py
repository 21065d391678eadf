"""Small PDB and mmCIF files as text: an ideal helix with whatever irregularity a test needs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from esm1b.evaluation.structures.files import ProteinChain, read_chain

Atoms = dict[str, NDArray[np.float64]]

NAMES = {
    "A": "ALA", "C": "CYS", "D": "ASP", "E": "GLU", "F": "PHE", "G": "GLY", "H": "HIS",
    "I": "ILE", "K": "LYS", "L": "LEU", "M": "MET", "N": "ASN", "P": "PRO", "Q": "GLN",
    "R": "ARG", "S": "SER", "T": "THR", "V": "VAL", "W": "TRP", "Y": "TYR",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """An atom record."""

    name: str
    residue: str
    number: int
    position: NDArray[np.float64]
    chain: str = "A"
    insertion: str = ""
    location: str = ""
    occupancy: float = 1.0
    hetero: bool = False
    place: int | None = None  # along the sequence, for mmCIF
    element: str = ""  # of the first letter of the name if not given


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file states besides its atoms."""

    sequence: Sequence[str] = ()  # residue names
    chain: str = "A"  # whose residues they are
    parents: dict[str, str] = field(default_factory=dict)


SEQUENCE = "MKVLAGSTWYHERDNQFCIPAGLK"
HEADER = Header(sequence=[NAMES[letter] for letter in SEQUENCE])


def read(folder: Path, content: str) -> ProteinChain:
    """Return the chain of a structure file with this content."""
    (folder / "9abc.pdb").write_text(content)
    chain = read_chain(folder / "9abc.pdb")
    assert chain is not None
    return chain


def lacks_two(chain: ProteinChain) -> bool:
    """Return whether it is `SEQUENCE`, all but residues 10 and 11 of it with coordinates."""
    observed = np.isfinite(chain.backbone[:, 1]).all(axis=1)
    return chain.sequence == SEQUENCE and observed.tolist() == [k not in (9, 10) for k in range(24)]


def helix(residues: int) -> list[Atoms]:
    """Return N, CA, C and CB of an ideal alpha helix; CB stands off the axis."""
    angles = np.deg2rad(100) * np.arange(residues)
    rise = 1.5 * np.arange(residues)

    def around(radius: float, turn: float, lift: float) -> NDArray[np.float64]:
        angle = angles + np.deg2rad(turn)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle), rise + lift], axis=1)

    # Cylindrical coordinates of an alpha helix, in angstrom and degrees relative to CA.
    atoms = {
        "N": around(1.55, -27.9, -0.87),
        "CA": around(2.28, 0.0, 0.0),
        "C": around(1.66, 26.3, 1.09),
        "CB": around(3.29, -19.5, -0.55 - 0.9),
    }
    return [{name: positions[k] for name, positions in atoms.items()} for k in range(residues)]


def rows(sequence: str, *, first: int = 1, backbone: Sequence[Atoms] | None = None) -> list[Row]:
    """Return the atoms of a chain without gaps; glycine has no CB."""
    return [
        Row(
            name=name,
            residue=NAMES[letter],
            number=first + index,
            place=index + 1,
            position=position,
        )
        for index, (letter, atoms) in enumerate(
            zip(sequence, backbone or helix(len(sequence)), strict=True)
        )
        for name, position in atoms.items()
        if not (letter == "G" and name == "CB")
    ]


def pdb_text(atoms: Sequence[Row], header: Header | None = None) -> str:
    """Return a PDB file."""
    header = header or Header()
    lines = []
    for start in range(0, len(header.sequence), 13):
        names = " ".join(f"{name:>3}" for name in header.sequence[start : start + 13])
        lines.append(
            f"SEQRES {start // 13 + 1:>3}{header.chain:>2} {len(header.sequence):>4}  {names}"
        )
    for name, parent in header.parents.items():
        lines.append(f"MODRES 9XYZ {name:>3} A    1  {parent:>3}  MODIFIED RESIDUE")
    for serial, atom in enumerate(atoms, start=1):
        record = "HETATM" if atom.hetero else "ATOM"
        x, y, z = atom.position
        lines.append(
            f"{record:<6}{serial:>5}  {atom.name:<3}{atom.location:1}{atom.residue:>3}"
            f"{atom.chain:>2}{atom.number:>4}{atom.insertion:1}   {x:8.3f}{y:8.3f}{z:8.3f}"
            f"{atom.occupancy:6.2f}{0:6.2f}          {atom.element or atom.name[0]:>2}"
        )
    return "\n".join([*lines, "END", ""])


def cif_text(atoms: Sequence[Row], header: Header | None = None) -> str:
    """Return an mmCIF file."""
    header = header or Header()
    lines = ["data_9XYZ"]
    if header.sequence:
        lines += ["loop_", "_entity_poly_seq.entity_id", "_entity_poly_seq.num"]
        lines += ["_entity_poly_seq.mon_id", "_entity_poly_seq.hetero"]
        lines += [f"1 {place} {name} n" for place, name in enumerate(header.sequence, start=1)]
        lines.append("#")
    if header.parents:
        lines += ["loop_", "_pdbx_struct_mod_residue.label_comp_id"]
        lines += ["_pdbx_struct_mod_residue.parent_comp_id"]
        lines += [f"{name} {parent}" for name, parent in header.parents.items()]
        lines.append("#")
    columns = (
        "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id "
        "label_entity_id label_seq_id pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy "
        "B_iso_or_equiv auth_seq_id auth_comp_id auth_asym_id auth_atom_id pdbx_PDB_model_num"
    )
    lines += ["loop_", *(f"_atom_site.{column}" for column in columns.split())]
    for serial, atom in enumerate(atoms, start=1):
        x, y, z = (f"{value:.3f}" for value in atom.position)
        element = atom.element or atom.name[0]
        lines.append(
            f"{'HETATM' if atom.hetero else 'ATOM'} {serial} {element} {atom.name} "
            f"{atom.location or '.'} {atom.residue} {atom.chain} 1 {atom.place or '.'} "
            f"{atom.insertion or '?'} {x} {y} {z} {atom.occupancy:.2f} 0.00 {atom.number} "
            f"{atom.residue} {atom.chain} {atom.name} 1"
        )
    return "\n".join([*lines, "#", ""])


def with_item(text: str, item: str, value: str | None) -> str:
    """Return an mmCIF file with `value` throughout a column of atom_site, or without it."""
    lines = text.splitlines()
    tags = [line for line in lines if line.startswith("_atom_site.")]
    column = tags.index(f"_atom_site.{item}")
    changed = []
    for line in lines:
        cells = line.split()
        if line.startswith(("ATOM", "HETATM")):
            cells[column : column + 1] = [] if value is None else [value]
            changed.append(" ".join(cells))
        elif value is not None or line != tags[column]:
            changed.append(line)
    return "\n".join([*changed, ""])
