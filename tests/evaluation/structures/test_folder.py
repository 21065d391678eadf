import bz2
import gzip
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esm1b.errors import UserError
from tests.evaluation.structure_rows import structure_rows
from tests.evaluation.structure_text import HEADER, SEQUENCE, Row, cif_text, helix, pdb_text, rows

PDB = pdb_text(rows(SEQUENCE), HEADER)
RNA = [
    Row(name=name, residue="A", number=number, position=np.array([number, 0.0, 0.0]))
    for number in range(1, 25)
    for name in ("P", "C4'")
]


def test_a_folder_of_both_formats_plain_and_compressed(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    (tmp_path / "9abc.pdb").write_text(pdb_text(rows(SEQUENCE, first=10), HEADER))
    (tmp_path / "deeper" / "9def.cif.gz").write_bytes(
        gzip.compress(cif_text(rows(SEQUENCE, first=10), HEADER).encode())
    )
    (tmp_path / "9ghi.ent").write_text(pdb_text(rows(SEQUENCE)))
    (tmp_path / "notes.txt").write_text("no structure")
    read = structure_rows(tmp_path)
    assert [row["id"] for row in read] == ["9abc_A", "9def_A", "9ghi_A"]
    for row in read:
        assert row["group"] == row["id"]
        assert row["kind"] is None
        assert row["ss3"] is None
        assert row["sequence"] == SEQUENCE
        assert row["observed"] == "1" * len(SEQUENCE)
    assert read[0]["contact_i"] == read[1]["contact_i"] == read[2]["contact_i"]
    # A helix rises by 1.5 angstrom a residue: nothing 6 apart is within 8 angstrom of Cb.
    assert read[0]["contact_i"] == []


def test_contacts_of_a_hairpin_of_two_helices(tmp_path: Path) -> None:
    there = helix(12)
    back = [
        {name: position * [-1, 1, -1] + [7, 0, 16.5] for name, position in atoms.items()}
        for atoms in there
    ]
    atoms = rows(SEQUENCE, backbone=[*there, *back])
    (tmp_path / "9abc.cif").write_text(cif_text(atoms, HEADER))
    (row,) = structure_rows(tmp_path, glycine="ca")
    at = {
        (atom.place or 0) - 1: atom.position
        for atom in atoms
        if atom.name == ("CA" if atom.residue == "GLY" else "CB")
    }
    expected = [
        (i, j)
        for i in range(24)
        for j in range(i + 6, 24)
        if np.linalg.norm(at[i].round(3) - at[j].round(3)) < 8
    ]
    assert len(expected) > 10
    assert list(zip(row["contact_i"], row["contact_j"], strict=True)) == expected


@pytest.mark.parametrize("text", [pdb_text, cif_text])
def test_missing_residues_are_in_the_sequence_and_not_observed(tmp_path: Path, text: Any) -> None:
    atoms = [atom for atom in rows(SEQUENCE, first=-1) if atom.place not in (1, 10, 11, 24)]
    suffix = "pdb" if text is pdb_text else "cif"
    (tmp_path / f"9abc.{suffix}").write_text(text(atoms, HEADER))
    (row,) = structure_rows(tmp_path)
    assert row["sequence"] == SEQUENCE
    assert row["observed"] == "011111111001111111111110"


def test_suffixes_in_any_case_and_compressed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cif = cif_text(rows(SEQUENCE), HEADER).encode()
    (tmp_path / "OTHER.PDB").write_text(PDB)
    (tmp_path / "third.mmcif").write_bytes(cif)
    (tmp_path / "fourth.pdb1").write_text(PDB)
    (tmp_path / "fifth.pdb12.GZ").write_bytes(gzip.compress(PDB.encode()))
    (tmp_path / "sixth.pdb.bz2").write_bytes(bz2.compress(PDB.encode()))
    (tmp_path / "seventh.Cif.xz").write_bytes(lzma.compress(cif))
    (tmp_path / "chain.b.ent").write_text(PDB)
    read = structure_rows(tmp_path)
    assert [row["id"] for row in read] == [
        *("OTHER_A", "chain.b_A", "fifth_A", "fourth_A", "seventh_A", "sixth_A", "third_A")
    ]
    assert {row["sequence"] for row in read} == {SEQUENCE}
    assert caplog.text == ""


def test_what_cannot_be_used_is_left_out_named_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "good.pdb").write_text(PDB)
    (tmp_path / "run.pdb").mkdir()
    (tmp_path / "rna.pdb").write_text(pdb_text(RNA))
    (tmp_path / "link.cif").symlink_to(tmp_path / "nowhere.cif")
    (tmp_path / "empty.ent").touch()
    (tmp_path / "peptide.pdb").write_text(pdb_text(rows("ACDEFG")))
    (tmp_path / "alpha.pdb").write_text(
        pdb_text([atom for atom in rows(SEQUENCE) if atom.name == "CA"], HEADER)
    )
    (tmp_path / "half.cif").write_text(cif_text(rows(SEQUENCE), HEADER)[:4000])
    (tmp_path / "half.pdb.bz2").write_bytes(bz2.compress(PDB.encode())[:-9])
    assert [row["id"] for row in structure_rows(tmp_path)] == ["good_A"]
    folder = str(tmp_path)
    messages = [record.getMessage().replace(folder, "st") for record in caplog.records]
    assert messages == [
        "left out: st/alpha.pdb: chain A: no residue has Cb, or N, CA and C to place one",
        "left out: st/empty.ent: holds no protein residue; expected a PDB or mmCIF structure",
        "left out: st/half.cif: cannot be read as mmCIF: "
        "line 32: Wrong number of values in loop _atom_site.*",
        "left out: st/half.pdb.bz2: cannot be read: "
        "Compressed data ended before the end-of-stream marker was reached",
        "left out: st/link.cif: cannot be read: No such file or directory",
        "left out: st/peptide.pdb: no protein chain of 20 residues or more",
        "left out: st/rna.pdb: holds no protein residue; expected a PDB or mmCIF structure",
        "left out: st/run.pdb: cannot be read: Is a directory",
        "st: 8 of 9 files were left out",
    ]


def test_files_of_another_kind_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "good.pdb").write_text(PDB)
    (tmp_path / "deeper").mkdir()
    for name in ("a.pdbqt", "b.mmtf", "deeper/chains.csv", "d.zip", "README", "LICENSE.txt"):
        (tmp_path / name).touch()
    for name in ("chains.fasta", ".hidden.xyz", "chains.csv"):
        (tmp_path / name).write_text("pdb_id,chain\n")
    assert len(structure_rows(tmp_path)) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: passed over 4 files of another kind: a.pdbqt, b.mmtf, d.zip and 1 more"
    ]


def test_a_folder_without_structures(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing")
    with pytest.raises(UserError, match="holds no structure; expected files named"):
        structure_rows(tmp_path)


def test_a_folder_without_a_protein(tmp_path: Path) -> None:
    (tmp_path / "9abc.pdb").write_text(pdb_text(rows("ACDEFG")))
    with pytest.raises(
        UserError,
        match=r"none of 1 files can be used; the first is .*9abc\.pdb: no protein chain of 20",
    ):
        structure_rows(tmp_path)


def test_one_id_twice(tmp_path: Path) -> None:
    (tmp_path / "9abc.pdb").write_text(pdb_text(rows(SEQUENCE)))
    (tmp_path / "9abc.cif").write_text(cif_text(rows(SEQUENCE)))
    with pytest.raises(UserError, match=r"9abc_A is in .* twice"):
        structure_rows(tmp_path)


def test_one_residue_with_a_place_for_cb_is_enough(tmp_path: Path) -> None:
    atoms = [atom for atom in rows(SEQUENCE) if atom.name == "CA" or atom.place == 1]
    (tmp_path / "9abc.pdb").write_text(pdb_text(atoms, HEADER))
    assert structure_rows(tmp_path)[0]["observed"] == "1" + "0" * 23


def test_a_chosen_file_must_be_usable(tmp_path: Path) -> None:
    (tmp_path / "good.pdb").write_text(PDB)
    (tmp_path / "9abc.pdb").write_text(pdb_text(RNA))
    (tmp_path / "chains.csv").write_text("pdb_id,chain\n9abc,A\n")
    with pytest.raises(UserError, match=r"9abc\.pdb: holds no protein residue"):
        structure_rows(tmp_path)


def test_hidden_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "old.pdb").write_text("")
    with pytest.raises(UserError, match="holds no structure"):
        structure_rows(tmp_path)
