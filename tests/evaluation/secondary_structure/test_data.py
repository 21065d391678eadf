import gzip
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from esm1b.alphabet import encode
from esm1b.errors import UserError
from esm1b.evaluation.secondary_structure.data import read_labelled_proteins, state_labels
from esm1b.evaluation.structures.proteins import Protein
from tests.evaluation.fake_models import examples, write_table


def csv_of(path: Path, *lines: str) -> Path:
    content = "\n".join([*lines, ""]).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_a_table_is_the_same_in_every_form(tmp_path: Path) -> None:
    lines = ["id,Split,sequence, ss3,resolved", "p2,TEST,ACD,HHC,110", "10,Train,MK,EE,11"]
    path = csv_of(tmp_path / "table.CSV", *lines)
    columns = zip(*(line.split(",") for line in lines), strict=True)
    table = pa.table({name: values for name, *values in columns})
    pq.write_table(table, tmp_path / "table.parquet")
    numbers = pa.table({**dict(zip(table.column_names, table, strict=True)), "id": ["p2", "10"]})
    pq.write_table(numbers, tmp_path / "TABLE.PQ")
    csv_of(tmp_path / "table.tsv.gz", *(line.replace(",", "\t") for line in lines))
    for other in (path, *tmp_path.iterdir()):
        ten, p2 = read_labelled_proteins(other)
        assert (ten.id, ten.group, ten.kind, ten.ss3) == ("10", "10", "fit", "EE")
        assert (p2.id, p2.kind, p2.residues.tolist()) == ("p2", "test", encode("ACD").tolist())
        assert p2.observed.tolist() == [True, True, False]


def test_columns_of_other_types(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    good = {"id": [7], "sequence": ["AC"], "ss3": ["HC"], "group": [1.0], "split": ["test"]}
    pq.write_table(pa.table(good), path)
    (seven,) = read_labelled_proteins(path)
    assert (seven.id, seven.group, seven.kind) == ("7", "1.0", "test")
    for column, value, reason in (
        ("ss3", [0, 2], r"ss3 is '\[0, 2\]' \(list\); expected text"),
        ("ss3", ["H", "C"], r"\(list\); expected text"),
        ("sequence", b"AC", r"\(bytes\); expected text"),
        ("observed", 11, r"observed is '11' \(int\); expected text"),
        ("split", True, "split is 'True'; expected train, valid or test"),
        ("split", 2, "split is '2'; expected train, valid or test"),
        ("ss3", float("nan"), "ss3 is empty"),
    ):
        pq.write_table(pa.table({**good, column: [value]}), path)
        with pytest.raises(UserError, match=rf"table\.parquet: row 1 \(7\): .*{reason}"):
            read_labelled_proteins(path)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["sequence,structure", "AC,HH"], "lacks the columns ss3; it has sequence, structure"),
        (["<html><body>"], "lacks the columns sequence, ss3; it has <html><body>"),
        ([""], "lacks the columns sequence, ss3; it has none"),
        (["sequence,ss3"], "has no rows"),
        (["id,sequence,ss3", "p1,ACD,HH"], r"row 1 \(p1\): ss3 has 2 characters; expected 3"),
        (["id,sequence,ss3", "p1,ACD"], r"row 1 \(p1\): ss3 is empty; expected H, E or C"),
        (["id,sequence,ss3", "p1,ACD,hec"], r"row 1 \(p1\): ss3 has 'h' at position 1; expected"),
        (["id,sequence,ss3", "p1,ACD,H-C"], r"row 1 \(p1\): ss3 has '-' at position 2; expected"),
        (
            ["id,sequence,ss3", "p1,ACD,HGC"],
            r"row 1 \(p1\): ss3 has 'G' at position 2; expected one of H, E, C; reduce eight "
            "states to three first: G and I to H, B to E, others to C$",
        ),
        (["id,sequence,ss3", "p1,A1D,HHC"], r"row 1 \(p1\): sequence: '1' at position 2"),
        (["id,sequence,ss3", "p1,,"], r"row 1 \(p1\): sequence is empty"),
        (["id,sequence,ss3", "p1,acd,HHC"], r"row 1 \(p1\): sequence: 'a' at position 1"),
        (["id,sequence,ss3", "p1,ACD,[2 2 0]"], r"row 1 \(p1\): ss3 has 7 characters; expected 3"),
        (["id,sequence,ss3", ",ACD,HHH"], "row 1: id is empty"),
        (["id,sequence,ss3", "p1,A,H", "p1 ,A,H"], r"row 2 \(p1\): the id occurs twice"),
        (["id,split,sequence,ss3", "p1,dev,A,H"], r"row 1 \(p1\): split is 'dev'; expected train"),
        (["sequence,ss3,resolved", "AC,HH,1"], r"row 1 \(1\): resolved has 1 characters"),
        (["sequence,ss3,resolved", "AC,HH,12"], r"row 1 \(1\): resolved has '2' at position 2"),
        (["sequence,ss3,resolved", "AC,HH,11", "AC,HH,"], r"row 2 \(2\): resolved is empty"),
        (["sequence,ss3,group", "AC,HH,a", "AC,HH,"], r"row 2 \(2\): group is empty"),
        (["sequence,ss3,split", "AC,HH,True"], r"row 1 \(1\): split is 'True'; expected train"),
        (["sequence,ss3,kind", "AC,HH,0"], r"row 1 \(1\): kind is '0'; expected train, valid"),
        (["sequence,ss3,kind,split", "AC,HH,fit,test"], "has the columns split and kind; expected"),
        (
            ["sequence,ss3,observed,resolved", "AC,HH,11,10"],
            "has the columns observed and resolved; expected one of them",
        ),
        (["Sequence,sequence,ss3", "AC,CA,HH"], "has the column sequence 2 times"),
    ],
)
def test_a_malformed_table_is_told(tmp_path: Path, lines: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=rf"table\.csv: {reason}") as caught:
        read_labelled_proteins(csv_of(tmp_path / "table.csv", *lines))
    assert "\n" not in str(caught.value)


def test_unusable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.csv: cannot be read: "):
        read_labelled_proteins(tmp_path / "absent.csv")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"sequence,ss3\nAC,HH\n" * 9)[:-9])
    with pytest.raises(UserError, match=r"cut\.csv\.gz: cannot be read: "):
        read_labelled_proteins(tmp_path / "cut.csv.gz")
    with pytest.raises(UserError, match="is a folder; expected a table with the columns sequence"):
        read_labelled_proteins(tmp_path)
    rows = examples({"fit": 1})
    path = write_table(tmp_path / "table.parquet", rows)
    table = pq.read_table(path)
    column = table.column_names.index("ss3")
    pq.write_table(table.set_column(column, "ss3", [[None] * len(rows)]), path)
    with pytest.raises(UserError, match=r"row 1 \(fit0_0\): ss3 is empty"):
        read_labelled_proteins(path)


def test_labels_count_where_the_residue_was_seen() -> None:
    protein = Protein(
        id="p",
        group="p",
        kind="fit",
        residues=encode("ACDEF"),
        observed=np.array([True, True, True, False, False]),
        contacts=np.empty((2, 0), dtype=np.int64),
        ss3="HEC-H",
    )
    assert state_labels(protein).tolist() == [0, 1, 2, -1, -1]


@pytest.mark.realdata
@pytest.mark.skipif(
    "ESM1B_REAL_DATA" not in os.environ,
    reason="ESM1B_REAL_DATA names no directory of real proteins",
)
def test_the_real_table_is_read_whole() -> None:
    path = Path(os.environ["ESM1B_REAL_DATA"]) / "secondary_structure" / "flip_ss3_2500.csv.gz"
    proteins = read_labelled_proteins(path)
    kinds = [protein.kind for protein in proteins]
    assert [kinds.count(kind) for kind in ("fit", "validation", "test")] == [2000, 250, 250]
    states = "".join(protein.ss3 or "" for protein in proteins)
    assert [states.count(state) for state in "HEC"] == [234_685, 138_231, 273_527]
