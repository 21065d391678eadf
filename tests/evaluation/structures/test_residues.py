from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esm1b.errors import UserError
from tests.evaluation.structure_text import (
    HEADER,
    SEQUENCE,
    Header,
    Row,
    cif_text,
    helix,
    pdb_text,
    read,
    rows,
)

both_formats = pytest.mark.parametrize("text", [pdb_text, cif_text])


def calcium(number: int, z: float, **changes: Any) -> Row:
    """Return an ion; the last CA of the helix is at z = 34.5, the axis at x = y = 0."""
    position = np.array([2.0, 2.0, z])
    ion = Row(name="CA", residue="CA", number=number, position=position, element="CA", hetero=True)
    return replace(ion, **changes)


@both_formats
@pytest.mark.parametrize("header", [HEADER, None])
@pytest.mark.parametrize(
    "ions",
    [
        [calcium(201, 60.0), calcium(202, 63.9)],  # a site of two ions
        [calcium(201, 37.0)],  # 4 angstrom from the last CA
        [calcium(201, 60.0, element="C"), calcium(202, 63.9, element="C")],
        [calcium(201, 37.0, hetero=False)],
        [calcium(201, 37.0, residue="UNL")],
    ],
)
def test_an_ion_is_no_residue(
    tmp_path: Path, text: Any, header: Header | None, ions: list[Row]
) -> None:
    chain = read(tmp_path, text([*rows(SEQUENCE), *ions], header))
    assert chain.sequence == SEQUENCE
    assert np.isfinite(chain.backbone[:, 1]).all()


@both_formats
@pytest.mark.parametrize("header", [HEADER, None])
def test_ligands_are_no_residues(tmp_path: Path, text: Any, header: Header | None) -> None:
    amino_acid, peptide = (
        [
            replace(atom, number=number + atom.number, position=atom.position + 50, hetero=True)
            for atom in rows(letters)
        ]
        for letters, number in (("E", 300), ("GA", 400))
    )
    ligands = [replace(atom, place=None) for atom in amino_acid + peptide]
    assert read(tmp_path, text([*rows(SEQUENCE), *ligands], header)).sequence == SEQUENCE


def test_modified_residues_are_their_parent(tmp_path: Path) -> None:
    names = ["MSE", *HEADER.sequence[1:11], "XYZ", *HEADER.sequence[12:]]
    atoms = [
        replace(atom, residue=names[(atom.place or 0) - 1], hetero=atom.place in (1, 12))
        for atom in rows(SEQUENCE)
    ]
    header = Header(sequence=names, parents={"XYZ": "GLU"})
    stated_nowhere = SEQUENCE[:11] + "X" + SEQUENCE[12:]
    for content, sequence in (
        (pdb_text(atoms, header), SEQUENCE),
        (cif_text(atoms, header), SEQUENCE),
        (pdb_text(atoms), stated_nowhere),
        (cif_text(atoms), stated_nowhere),
    ):
        chain = read(tmp_path, content)
        assert chain.sequence == sequence
        assert np.isfinite(chain.backbone[:, 1]).all()


@both_formats
@pytest.mark.parametrize("header", [True, False])
def test_a_modified_residue_between_gaps_keeps_its_place(
    tmp_path: Path, text: Any, header: bool
) -> None:
    atoms = [
        replace(atom, residue="MSE", hetero=True) if atom.place == 12 else atom
        for atom in rows(SEQUENCE)
        if atom.place not in (11, 13)
    ]
    names = [*HEADER.sequence[:11], "MSE", *HEADER.sequence[12:]]
    chain = read(tmp_path, text(atoms, Header(sequence=names) if header else None))
    expected = SEQUENCE[:11] + "M" + SEQUENCE[12:]
    assert chain.sequence == (expected if header else expected[:10] + "M" + expected[13:])
    assert np.isfinite(chain.backbone[:, 1]).all(axis=1).sum() == 22


@both_formats
def test_a_residue_without_its_alpha_carbon_keeps_its_place(tmp_path: Path, text: Any) -> None:
    atoms = [atom for atom in rows(SEQUENCE) if atom.place != 10 or atom.name == "N"]
    chain = read(tmp_path, text(atoms))
    assert chain.sequence == SEQUENCE
    assert np.isfinite(chain.backbone[9]).all(axis=1).tolist() == [True, False, False, False]


def test_residue_names_of_simulation_programs(tmp_path: Path) -> None:
    names = {"HIS": "HSD", "CYS": "CYX", "ASP": "ASH"}
    atoms = [replace(a, residue=names.get(a.residue, a.residue), chain="") for a in rows(SEQUENCE)]
    assert read(tmp_path, pdb_text(atoms)).sequence == SEQUENCE


def test_of_alternate_locations_the_most_occupied_counts(tmp_path: Path) -> None:
    shift = np.array([0.5, 0.0, 0.0])
    atoms = []
    for atom in rows(SEQUENCE):
        if atom.place == 5 and atom.name in ("CA", "CB"):
            atoms.append(replace(atom, location="A", occupancy=0.3))
            atoms.append(replace(atom, location="B", occupancy=0.7, position=atom.position + shift))
        elif atom.place == 8 and atom.name == "CA":  # as often one as the other: the first
            atoms.append(replace(atom, location="A", occupancy=0.5))
            atoms.append(replace(atom, location="B", occupancy=0.5, position=atom.position + shift))
        else:
            atoms.append(atom)
    plain = helix(len(SEQUENCE))
    for text in (pdb_text, cif_text):
        chain = read(tmp_path, text(atoms, HEADER))
        assert chain.backbone[4, 1] == pytest.approx(plain[4]["CA"] + shift, abs=1e-3)
        assert chain.backbone[4, 3] == pytest.approx(plain[4]["CB"] + shift, abs=1e-3)
        assert chain.backbone[4, 0] == pytest.approx(plain[4]["N"], abs=1e-3)
        assert chain.backbone[7, 1] == pytest.approx(plain[7]["CA"], abs=1e-3)


@both_formats
def test_two_residue_types_at_one_place_are_one_residue(tmp_path: Path, text: Any) -> None:
    atoms = []
    for atom in rows(SEQUENCE):
        if atom.place == 7:  # S in the sequence
            atoms.append(replace(atom, location="A", occupancy=0.4))
        else:
            atoms.append(atom)
    index = next(k for k, atom in enumerate(atoms) if atom.place == 8)
    atoms[index:index] = [
        replace(atom, location="B", occupancy=0.6, residue="THR", position=atom.position + 0.1)
        for atom in rows(SEQUENCE)
        if atom.place == 7
    ]
    chain = read(tmp_path, text(atoms, HEADER))
    assert chain.sequence == SEQUENCE
    assert np.isfinite(chain.backbone[:, 1]).all()
    assert chain.backbone[6, 1] == pytest.approx(helix(24)[6]["CA"] + 0.1, abs=1e-3)


def test_insertion_codes_are_residues_of_their_own(tmp_path: Path) -> None:
    atoms = [
        replace(atom, number=atom.number - 1, insertion="A")
        if atom.place == 9
        else replace(atom, number=atom.number - (1 if (atom.place or 0) > 9 else 0))
        for atom in rows(SEQUENCE)
    ]
    chain = read(tmp_path, pdb_text(atoms, HEADER))
    assert np.isfinite(chain.backbone[:, 1]).all()


def test_two_molecules_of_one_name_are_told_apart(tmp_path: Path) -> None:
    first = rows(SEQUENCE)
    second = [replace(atom, position=atom.position + 50) for atom in rows(SEQUENCE)]
    again = pdb_text([*first, *first])  # nothing new
    assert read(tmp_path, again).sequence == SEQUENCE
    with pytest.raises(UserError, match=r"9abc\.pdb: residue 1 occurs twice; expected chains told"):
        read(tmp_path, pdb_text([*first, *second]))
    after_end = pdb_text(first).replace("END\n", "TER\n") + pdb_text(second)
    assert read(tmp_path, after_end).sequence == SEQUENCE
