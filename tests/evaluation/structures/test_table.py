import csv
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from esm1b.errors import UserError
from esm1b.evaluation.structures.table import STRUCTURE_SCHEMA
from tests.evaluation.structure_rows import structure_rows


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
    read = structure_rows(path)
    assert [row["id"] for row in read] == ["p1", "p2"]


def test_structure_may_be_absent_and_other_columns_present(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    given = {key: [value] for key, value in row(extra=1).items() if key != "ss3"}
    pq.write_table(pa.table(given), path)
    assert structure_rows(path) == [row(ss3=None)]


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
        structure_rows(written(tmp_path, row(**changes)))


def as_csv(path: Path, delimiter: str, *table: dict[str, Any]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, STRUCTURE_SCHEMA.names, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(table)
    return path


@pytest.mark.parametrize(("name", "delimiter"), [("table.csv", ","), ("TABLE.TSV", "\t")])
def test_a_table_as_text_is_the_same(tmp_path: Path, name: str, delimiter: str) -> None:
    rows = [row(ss3=None, kind=None), row(id="p2", contact_i=[], contact_j=[])]
    assert structure_rows(as_csv(tmp_path / name, delimiter, *rows)) == rows
    # as NumPy writes them
    assert structure_rows(
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
        structure_rows(path)


def test_a_table_is_told_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"id": ["p1"], "sequence": ["AC"]}), path)
    with pytest.raises(
        UserError,
        match="lacks the columns group, kind, observed, contact_i, contact_j; it has id, sequence",
    ):
        structure_rows(path)


def test_bad_tables(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no rows"):
        structure_rows(written(tmp_path))
    with pytest.raises(UserError, match="row p1: the id occurs twice"):
        structure_rows(written(tmp_path, row(), row()))
    with pytest.raises(UserError, match="no such file or folder"):
        structure_rows(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("id,sequence\n")
    with pytest.raises(UserError, match="lacks the columns group, kind, observed, contact_i"):
        structure_rows(tmp_path / "text.parquet")
    (tmp_path / "9abc.pdb").write_text("HEADER    HYDROLASE\nEND\n")
    with pytest.raises(UserError, match="is no structure table; expected a folder of structures"):
        structure_rows(tmp_path / "9abc.pdb")
    pq.write_table(
        pa.table({key: [1] for key in STRUCTURE_SCHEMA.names}), tmp_path / "numbers.parquet"
    )
    with pytest.raises(UserError, match=r"row 1: sequence is '1' \(int\); expected text"):
        structure_rows(tmp_path / "numbers.parquet")
