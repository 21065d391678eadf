from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from esm1b.errors import UserError
from esm1b.evaluation.structures.chain_choice import read_choices
from tests.evaluation.structure_rows import structure_rows
from tests.evaluation.structure_text import SEQUENCE, pdb_text, rows

PDB = pdb_text(
    [
        *[replace(atom, chain="P") for atom in rows("ACDE")],
        *[replace(atom, chain="B", position=atom.position + 40) for atom in rows(SEQUENCE[:20])],
        *[replace(atom, position=atom.position + 80) for atom in rows(SEQUENCE)],
    ]
)


def choices(folder: Path, table: str, files: Sequence[str]) -> dict[str, str]:
    (folder / "chains.csv").write_bytes(table.encode())
    chosen = read_choices(folder, [folder / file for file in files])
    return {path.relative_to(folder).as_posix(): chain for path, chain in chosen.items()}


@pytest.mark.parametrize(
    "table",
    [
        "file,chain,main\nsomewhere/9abc.pdb,B,0\nsomewhere/9abc.pdb,A,1\n",
        "pdb_id,chain\n9ABC,A\n9ABC,A\n",
        '\ufeff"pdb_id", "chain"\r\n" 9abc ","A "\r\n,\r\n',
    ],
)
def test_a_table_chooses_the_chain(tmp_path: Path, table: str) -> None:
    (tmp_path / "9abc.pdb").write_text(PDB)
    assert structure_rows(tmp_path)[0]["id"] == "9abc_B"  # the first of 20 residues
    (tmp_path / "Chains.CSV").write_text(table, encoding="utf-8", newline="")
    assert structure_rows(tmp_path)[0]["id"] == "9abc_A"


def test_a_chosen_chain_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "9abc.pdb").write_text(PDB)
    for chain in ("Q", ""):
        (tmp_path / "chains.csv").write_text(f"pdb_id,chain\n9abc,{chain}\n")
        message = rf"9abc\.pdb: no protein chain '{chain}'; expected one of P, B, A"
        with pytest.raises(UserError, match=message):
            structure_rows(tmp_path)


@pytest.mark.parametrize(
    ("cell", "file"),
    [
        ("1abc", "pdb1abc.ent"),
        ("1ABC", "pdb1abc.ent.gz"),
        ("1abc", "1abc-assembly1.cif"),
        ("1abc", "1abc_updated.cif"),
        ("pdb_00001abc", "1abc.cif"),
        ("1abc", "PDB_00001ABC_XYZ_V1-2.cif.gz"),
        ("1abc.pdb.gz", "1abc.pdb"),
        ("1abc.pdb", "1abc.pdb.gz"),
        ("pdb1abc.ent", "1abc.cif"),
        ("structures\\1abc.pdb", "1abc.pdb"),
        ("  structures/1abc.pdb ", "1abc.pdb"),
        ("/data/ab/1abc.pdb", "ab/1abc.pdb"),
        ("AF-P12345-F1-model_v4", "AF-P12345-F1-model_v4.pdb"),
        ("my protein", "My Protein.pdb"),
    ],
)
@pytest.mark.parametrize("column", ["file", "pdb_id"])
def test_names_as_they_are_written(tmp_path: Path, column: str, cell: str, file: str) -> None:
    table = f"{column},chain\n{cell},NA\n"
    assert choices(tmp_path, table, [file, "2abc.pdb", "1abcd.pdb"]) == {file: "NA"}


def test_of_several_files_the_one_that_fits_best(tmp_path: Path) -> None:
    files = ["1abc-assembly1.cif", "a/pdb1abc.ent", "a/2abc.pdb", "b/2abc.pdb", "b/2abc_A.pdb"]
    assert choices(tmp_path, "pdb_id,chain\n1abc,A\n", files) == {"a/pdb1abc.ent": "A"}
    table = "file,chain\nx/b/2abc.pdb,B\na\\2abc.pdb,A\n2abc_A.pdb,C\n"
    expected = {"b/2abc.pdb": "B", "a/2abc.pdb": "A", "b/2abc_A.pdb": "C"}
    assert choices(tmp_path, table, files) == expected


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("pdb_id,chain\n1abd,A\n", r"no structure file for row 1 \(1abd\); expected names"),
        (
            "pdb_id,chain\nw,A\n1abc,A\nx,A\ny,A\nz,A\n",
            r"no structure file for row 1 \(w\), row 3 \(x\), row 4 \(y\) and 1 more; expected",
        ),
        ("pdb_id,chain\n,A\n", r"no structure file for row 1 \(\)"),
        ("file,chain\n1abc_B.pdb,B\n", r"no structure file for row 1 \(1abc_B\.pdb\)"),
        ("pdb_id,chain\n2abc,A\n", r"row 1 \(2abc\) is each of .*a.2abc\.pdb, .*b.2abc\.pdb; exp"),
        (
            "pdb_id,chain\n1abc,A\n1ABC,B\n",
            r"row 2 \(1ABC\) has chain 'B' where row 1 \(1abc\) has 'A'; expected one chain of",
        ),
        ("pdb,chain\n1abc,A\n", r"has the columns pdb, chain; expected chain and file or pdb_id"),
        ("pdb_id,chain,Chain\n1abc,A,B\n", "has the column chain 2 times; expected one"),
        ("", "has the columns none; expected"),
        ("pdb_id,chain\n1abc,A,B\n", "row 1 has 3 cells; expected 2"),
        ("pdb_id,chain,main\n1abc,A,x\n", "row 1: main is 'x'; expected 1 or 0"),
    ],
)
def test_what_chooses_nothing_or_two_things_is_told(
    tmp_path: Path, table: str, message: str
) -> None:
    with pytest.raises(UserError, match=rf"chains\.csv: {message}") as caught:
        choices(tmp_path, table, ["1abc.pdb", "a/2abc.pdb", "b/2abc.pdb"])
    assert "\n" not in str(caught.value)


def test_two_tables(tmp_path: Path) -> None:
    (tmp_path / "Chains.csv").touch()
    with pytest.raises(UserError, match=r"holds Chains\.csv, chains\.csv; expected one table"):
        choices(tmp_path, "pdb_id,chain\n1abc,A\n", ["1abc.pdb"])
