import csv
import gzip
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from esm1b.errors import UserError
from esm1b.evaluation.structures.files import read_chain
from esm1b.evaluation.structures.geometry import impute_beta_carbons
from esm1b.evaluation.structures.table import STRUCTURE_SCHEMA, read_structures
from tests.evaluation.structure_text import NAMES, Header, Row, cif_text, helix, pdb_text, rows

SEQUENCE = "MKVLAGSTWYHERDNQFCIPAGLK"
HEADER = Header(sequence=[NAMES[letter] for letter in SEQUENCE])


def test_a_folder_of_both_formats_plain_and_compressed(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    (tmp_path / "9abc.pdb").write_text(pdb_text(rows(SEQUENCE, first=10), HEADER))
    (tmp_path / "deeper" / "9def.cif.gz").write_bytes(
        gzip.compress(cif_text(rows(SEQUENCE, first=10), HEADER).encode())
    )
    (tmp_path / "9ghi.ent").write_text(pdb_text(rows(SEQUENCE)))
    (tmp_path / "notes.txt").write_text("no structure")
    read = read_structures(tmp_path)
    assert all(list(row) == STRUCTURE_SCHEMA.names for row in read)
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
    (row,) = read_structures(tmp_path, glycine="ca")
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
    (row,) = read_structures(tmp_path)
    assert row["sequence"] == SEQUENCE
    assert row["observed"] == "011111111001111111111110"


def test_modified_residues_are_their_parent(tmp_path: Path) -> None:
    names = ["MSE", *HEADER.sequence[1:11], "XYZ", *HEADER.sequence[12:]]
    atoms = [
        replace(atom, residue=names[(atom.place or 0) - 1], hetero=atom.place in (1, 12))
        for atom in rows(SEQUENCE)
    ]
    header = Header(sequence=names, parents={"XYZ": "GLU"})
    (tmp_path / "9abc.pdb").write_text(pdb_text(atoms, header))
    (tmp_path / "9def.cif").write_text(cif_text(atoms, header))
    (tmp_path / "9ghi.pdb").write_text(pdb_text(atoms))  # states neither sequence nor parent
    read = read_structures(tmp_path)
    assert [row["sequence"] for row in read] == [
        SEQUENCE,
        SEQUENCE,
        SEQUENCE[:11] + "X" + SEQUENCE[12:],
    ]
    assert all(row["observed"] == "1" * len(SEQUENCE) for row in read)


def test_ligands_and_ions_are_not_residues(tmp_path: Path) -> None:
    far = np.array([50.0, 50.0, 50.0])
    ligand = [
        Row(name=name, residue="GLU", number=300, position=position + far, hetero=True)
        for name, position in helix(1)[0].items()
    ]
    ion = Row(name="CA", residue="CA", number=301, position=far * 2, hetero=True)
    atoms = [*rows(SEQUENCE), *ligand, ion]
    (tmp_path / "9abc.pdb").write_text(pdb_text(atoms, HEADER))
    (tmp_path / "9def.cif").write_text(cif_text(atoms, HEADER))
    (tmp_path / "9ghi.pdb").write_text(pdb_text(atoms))
    assert [row["sequence"] for row in read_structures(tmp_path)] == [SEQUENCE] * 3


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
    for text, name in ((pdb_text, "9abc.pdb"), (cif_text, "9abc.cif")):
        (tmp_path / name).write_text(text(atoms, HEADER))
        chain = read_chain(tmp_path / name)
        assert chain is not None
        plain = helix(len(SEQUENCE))
        assert chain.backbone[4, 1] == pytest.approx(plain[4]["CA"] + shift, abs=1e-3)
        assert chain.backbone[4, 3] == pytest.approx(plain[4]["CB"] + shift, abs=1e-3)
        assert chain.backbone[4, 0] == pytest.approx(plain[4]["N"], abs=1e-3)
        assert chain.backbone[7, 1] == pytest.approx(plain[7]["CA"], abs=1e-3)


def test_two_residue_types_at_one_place_are_one_residue(tmp_path: Path) -> None:
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
    for text, name in ((pdb_text, "9abc.pdb"), (cif_text, "9def.cif")):
        (tmp_path / name).write_text(text(atoms, HEADER))
        chain = read_chain(tmp_path / name)
        assert chain is not None
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
    (tmp_path / "9abc.pdb").write_text(pdb_text(atoms, HEADER))
    (row,) = read_structures(tmp_path)
    assert row["observed"] == "1" * 24


def test_only_the_first_model_counts(tmp_path: Path) -> None:
    one = pdb_text(rows(SEQUENCE)).removesuffix("END\n")
    two = pdb_text(rows(SEQUENCE[:20])).removesuffix("END\n")
    text = f"MODEL        1\n{one}ENDMDL\nMODEL        2\n{two}ENDMDL\nEND\n"
    (tmp_path / "9abc.pdb").write_text(text)
    assert read_structures(tmp_path)[0]["sequence"] == SEQUENCE


def two_chains() -> str:
    peptide = [replace(atom, chain="P") for atom in rows("ACDE")]
    second = [replace(atom, chain="B", position=atom.position + 40) for atom in rows(SEQUENCE[:20])]
    first = [replace(atom, position=atom.position + 80) for atom in rows(SEQUENCE)]
    return pdb_text([*peptide, *second, *first])


def test_the_first_chain_of_20_residues_is_taken(tmp_path: Path) -> None:
    (tmp_path / "9abc.pdb").write_text(two_chains())
    assert read_structures(tmp_path)[0]["id"] == "9abc_B"


@pytest.mark.parametrize(
    "table",
    [
        "file,chain,main\nsomewhere/9abc.pdb,B,0\nsomewhere/9abc.pdb,A,1\n",
        "pdb_id,chain\n9ABC,A\n9ABC,B\n",
    ],
)
def test_a_table_chooses_the_chain(tmp_path: Path, table: str) -> None:
    (tmp_path / "9abc.pdb").write_text(two_chains())
    (tmp_path / "chains.csv").write_text(table)
    assert read_structures(tmp_path)[0]["id"] == "9abc_A"


def test_a_chosen_chain_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "9abc.pdb").write_text(two_chains())
    (tmp_path / "chains.csv").write_text("pdb_id,chain\n9abc,Q\n")
    with pytest.raises(
        UserError, match=r"9abc\.pdb: no protein chain 'Q'; expected one of P, B, A"
    ):
        read_structures(tmp_path)
    (tmp_path / "chains.csv").write_text("pdb,chain\n9abc,A\n")
    with pytest.raises(UserError, match=r"chains\.csv: has the columns pdb, chain; expected"):
        read_structures(tmp_path)


def test_a_folder_without_structures(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing")
    with pytest.raises(UserError, match="holds no structure; expected files named"):
        read_structures(tmp_path)


def test_a_folder_without_a_protein(tmp_path: Path) -> None:
    (tmp_path / "9abc.pdb").write_text(pdb_text(rows("ACDEFG")))
    with pytest.raises(UserError, match="no file holds a protein chain of 20 residues"):
        read_structures(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("9abc.pdb", b"<html><body>Not found</body></html>"),
        ("9abc.cif", b"<html><body>Not found</body></html>"),
        ("9abc.cif", b"data_9ABC\n#\n"),
        ("9abc.pdb", b""),
        ("9abc.pdb.gz", b"no gzip at all"),
        ("9abc.pdb.gz", gzip.compress(pdb_text(rows(SEQUENCE)).encode())[:200]),
        ("9abc.pdb", pdb_text(rows(SEQUENCE)).replace("2.280", "x.280").encode()),
    ],
)
def test_an_unreadable_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as caught:
        read_structures(tmp_path)
    assert "\n" not in str(caught.value)


def test_coordinates_must_fit_the_sequence(tmp_path: Path) -> None:
    header = Header(sequence=[NAMES[letter] for letter in SEQUENCE[::-1]])
    (tmp_path / "9abc.pdb").write_text(pdb_text(rows(SEQUENCE), header))
    with pytest.raises(UserError, match=r"9abc\.pdb: chain A: \d+ of 24 residues"):
        read_structures(tmp_path)


def test_one_id_twice(tmp_path: Path) -> None:
    (tmp_path / "9abc.pdb").write_text(pdb_text(rows(SEQUENCE)))
    (tmp_path / "9abc.cif").write_text(cif_text(rows(SEQUENCE)))
    with pytest.raises(UserError, match=r"9abc_A is in .* twice"):
        read_structures(tmp_path)


def row(**changes: Any) -> dict[str, Any]:
    return {
        "id": "p1",
        "group": "g1",
        "kind": "fit",
        "sequence": "ACDEFGHIK",
        "observed": "111111110",
        "contact_i": [0],
        "contact_j": [7],
        "ss3": "HHHEEECCC",
        **changes,
    }


def written(tmp_path: Path, *table: dict[str, Any]) -> Path:
    path = tmp_path / "table.parquet"
    pq.write_table(pa.Table.from_pylist(list(table), schema=STRUCTURE_SCHEMA), path)
    return path


def test_a_table_is_read_sorted_by_id(tmp_path: Path) -> None:
    path = written(tmp_path, row(id="p2", ss3=None, kind=None), row(id="p1", ss3="HHHEEECC-"))
    read = read_structures(path)
    assert all(list(row) == STRUCTURE_SCHEMA.names for row in read)
    assert [row["id"] for row in read] == ["p1", "p2"]


def test_structure_may_be_absent_and_other_columns_present(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    given = {key: [value] for key, value in row(extra=1).items() if key != "ss3"}
    pq.write_table(pa.table(given), path)
    assert read_structures(path) == [row(ss3=None)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"observed": "111"}, "row p1: observed has 3 characters; expected 9, one per residue"),
        ({"observed": "11111111x"}, "row p1: observed has 'x' at position 9; expected one of 0, 1"),
        ({"ss3": "HHH"}, "row p1: ss3 has 3 characters"),
        (
            {"ss3": "HHHGEECCC"},
            "row p1: ss3 has 'G' at position 4; expected one of H, E, C; reduce",
        ),
        ({"kind": "train"}, "row p1: kind is 'train'; expected fit, test, unseen or none"),
        ({"group": None}, "row p1: group is empty; expected a value"),
        ({"sequence": "", "observed": ""}, "row p1: sequence is empty; expected a value"),
        ({"id": None}, "row 1: id is empty"),
        ({"contact_i": None}, "row p1: contact_i is empty"),
        ({"contact_j": [1, 2]}, "row p1: 1 contact_i and 2 contact_j"),
        ({"contact_j": [5]}, r"row p1: contact \(0, 5\) in a sequence of 9"),
        ({"contact_j": [9]}, r"row p1: contact \(0, 9\) in a sequence of 9"),
        ({"contact_j": [8]}, r"row p1: contact \(0, 8\) of a residue without coordinates"),
    ],
)
def test_a_row_that_contradicts_itself(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=rf"table\.parquet: {reason}"):
        read_structures(written(tmp_path, row(**changes)))


def as_csv(path: Path, delimiter: str, *table: dict[str, Any]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, STRUCTURE_SCHEMA.names, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(table)
    return path


@pytest.mark.parametrize(("name", "delimiter"), [("table.csv", ","), ("TABLE.TSV", "\t")])
def test_a_table_as_text_is_the_same(tmp_path: Path, name: str, delimiter: str) -> None:
    rows = [row(ss3=None, kind=None), row(id="p2", contact_i=[], contact_j=[])]
    assert read_structures(as_csv(tmp_path / name, delimiter, *rows)) == rows
    # as NumPy writes them
    assert read_structures(
        as_csv(tmp_path / name, delimiter, row(contact_i="[0 1]", contact_j="[7\n  7]"))
    ) == [row(contact_i=[0, 1], contact_j=[7, 7])]


@pytest.mark.parametrize(
    ("contacts", "reason"),
    [
        ("", "contact_i is empty; expected a value"),
        ("0", "contact_i is '0'; expected a list of positions such as \\[0, 5\\]"),
        ("[0 1 ... 7]", "contact_i is '\\[0 1 ... 7\\]'; expected a list"),
        ("[0.0]", "contact_i is '\\[0.0\\]'; expected a list"),
    ],
)
def test_contacts_as_text_are_lists(tmp_path: Path, contacts: str, reason: str) -> None:
    path = as_csv(tmp_path / "table.csv", ",", row(contact_i=contacts))
    with pytest.raises(UserError, match=rf"table\.csv: row p1: {reason}"):
        read_structures(path)


def test_a_table_is_told_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"id": ["p1"], "sequence": ["AC"]}), path)
    with pytest.raises(
        UserError,
        match="lacks the columns group, kind, observed, contact_i, contact_j; it has id, sequence",
    ):
        read_structures(path)


def test_bad_tables(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no rows"):
        read_structures(written(tmp_path))
    with pytest.raises(UserError, match="row p1: the id occurs twice"):
        read_structures(written(tmp_path, row(), row()))
    with pytest.raises(UserError, match="no such file or folder"):
        read_structures(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("id,sequence\n")
    with pytest.raises(UserError, match="lacks the columns group, kind, observed, contact_i"):
        read_structures(tmp_path / "text.parquet")
    (tmp_path / "9abc.pdb").write_text(pdb_text(rows(SEQUENCE)))
    with pytest.raises(UserError, match="is no structure table; expected a folder of structures"):
        read_structures(tmp_path / "9abc.pdb")
    pq.write_table(
        pa.table({key: [1] for key in STRUCTURE_SCHEMA.names}), tmp_path / "numbers.parquet"
    )
    with pytest.raises(UserError, match=r"row 1: sequence is '1' \(int\); expected text"):
        read_structures(tmp_path / "numbers.parquet")


REAL_DATA = os.environ.get("ESM1B_REAL_DATA")
needs_real_data = pytest.mark.skipif(
    REAL_DATA is None, reason="ESM1B_REAL_DATA names no directory of real proteins"
)


@pytest.mark.realdata
@needs_real_data
def test_real_entries_agree_with_their_description() -> None:
    folder = Path(REAL_DATA or "") / "structures"
    read = {row["id"]: row for row in read_structures(folder)}
    sequences = {
        record.split("\n", 1)[0]: record.split("\n", 1)[1].replace("\n", "")
        for record in (folder / "chains.fasta").read_text().split(">")[1:]
    }
    with (folder / "chains.csv").open() as file:
        described = [entry for entry in csv.DictReader(file) if entry["main"] == "1"]
    assert len(described) == len(read) == 32
    for entry in described:
        identifier = f"{entry['pdb_id']}_{entry['chain']}"
        observed = read[identifier]["observed"]
        assert read[identifier]["sequence"] == sequences[identifier]
        assert len(observed) == int(entry["seqres_length"]), identifier
        assert observed.count("1") == int(entry["observed_ca"]), identifier
        assert observed.count("0") == int(entry["missing_residues"]), identifier


@pytest.mark.realdata
@needs_real_data
def test_missing_residues_are_where_the_entries_say() -> None:
    """PDB entries list them in REMARK 465, by author number: those before and after the chain."""
    for path in sorted((Path(REAL_DATA or "") / "structures" / "pdb").glob("*.gz")):
        chain = read_chain(path)
        assert chain is not None
        missing = [
            line.split()[2]
            for line in gzip.decompress(path.read_bytes()).decode().splitlines()
            if line.startswith("REMARK 465")
            and len(line.split()) == 5
            and line.split()[3] == chain.name
            and line.split()[2] in NAMES.values()
        ]
        unseen = np.flatnonzero(np.isnan(chain.backbone[:, 1, 0]))
        assert [NAMES[chain.sequence[place]] for place in unseen] == missing, path.name


@pytest.mark.realdata
@needs_real_data
def test_imputed_beta_carbons_are_near_the_real_ones() -> None:
    distances = []
    for path in sorted((Path(REAL_DATA or "") / "structures").rglob("*.gz")):
        chain = read_chain(path)
        assert chain is not None
        nitrogen, alpha, carbonyl, beta = chain.backbone.transpose(1, 0, 2)
        imputed = impute_beta_carbons(nitrogen, alpha, carbonyl)
        distances.append(np.linalg.norm(imputed - beta, axis=1))
    assert np.nanmedian(np.concatenate(distances)) < 0.1
    assert np.nanpercentile(np.concatenate(distances), 99) < 0.4
