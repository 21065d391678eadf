"""Tables that somebody damaged or wrote otherwise: used as they are meant, or told in one line."""

import csv
import gzip
import io
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from esm1b.alphabet import AMINO_ACIDS
from esm1b.errors import UserError
from esm1b.evaluation.secondary_structure.data import read_labelled_proteins
from tests.evaluation.structure_rows import structure_row, structure_rows

VARIANTS = 1000
SPLITS = {"train": "fit", "valid": "validation", "test": "test"}


@dataclass
class Table:
    """A table on its way to a file: cells by column, and how the file is written."""

    columns: list[str]
    rows: list[list[Any]]
    delimiter: str = ","
    quoting: Literal[0, 1, 2, 3] = csv.QUOTE_MINIMAL
    newline: str = "\n"
    encoding: str = "utf-8"
    is_binary: bool = False
    edit: Callable[[bytes], bytes] = lambda content: content
    changes: list[str] = field(default_factory=list)
    must_be_used: bool = True

    def place(self, random_: random.Random) -> tuple[list[Any], int]:
        return random_.choice(self.rows), random_.randrange(len(self.columns))

    def write(self, path: Path, random_: random.Random) -> None:
        if self.is_binary:
            arrays = [pa.array(list(cells)) for cells in zip(*self.rows, strict=True)]
            table = pa.Table.from_arrays(arrays, names=self.columns)
            random_.choice([pq.write_table, feather.write_feather])(table, path)
            content = path.read_bytes()
        else:
            text = io.StringIO()
            writer = csv.writer(
                text, delimiter=self.delimiter, quoting=self.quoting, lineterminator=self.newline
            )
            writer.writerow(self.columns)
            writer.writerows(self.rows)
            content = text.getvalue().encode(self.encoding)
        content = self.edit(content)
        path.write_bytes(gzip.compress(content) if random_.random() < 0.2 else content)


def labelled(random_: random.Random) -> Table:
    rows = []
    for number in range(8):
        length = random_.randrange(5, 30)
        rows.append(
            [
                f"p{number}",
                random_.choice(list(SPLITS)),
                "".join(random_.choices(AMINO_ACIDS, k=length)),
                "".join(random_.choices("HEC", k=length)),
                "".join(random_.choices("01", k=length)),
                f"g{number // 2}",
                random_.choice(["", "a note", 'a "quoted", note', "two\nlines"]),
            ]
        )
    return Table(["id", "split", "sequence", "ss3", "resolved", "group", "note"], rows)


def structures(random_: random.Random) -> Table:
    rows = []
    for number in range(6):
        length = random_.randrange(12, 30)
        i = sorted(random_.sample(range(length - 8), 3))
        rows.append(
            [
                *(f"p{number}", f"g{number // 2}", random_.choice(["fit", "test", "unseen"])),
                "".join(random_.choices(AMINO_ACIDS, k=length)),
                *("1" * length, i, [each + 7 for each in i]),
                "".join(random_.choices("HEC", k=length)),
            ]
        )
    names = ["id", "group", "kind", "sequence", "observed", "contact_i", "contact_j", "ss3"]
    return Table(names, rows)


def other_form(table: Table, random_: random.Random) -> str:
    form = random_.choice(["tabs", "semicolons", "quotes", "windows", "mac", "mark", "binary"])
    table.is_binary = form == "binary"
    table.delimiter = {"tabs": "\t", "semicolons": ";"}.get(form, table.delimiter)
    # With Mac's line ends Python's writer would leave a cell of two lines without quotes.
    table.quoting = csv.QUOTE_ALL if form in ("quotes", "mac") else table.quoting
    table.newline = {"windows": "\r\n", "mac": "\r"}.get(form, table.newline)
    table.encoding = "utf-8-sig" if form == "mark" else table.encoding
    return form


def names_in_another_case(table: Table, random_: random.Random) -> None:
    changes: list[Callable[[str], str]] = [str.upper, str.title, lambda name: f" {name} "]
    change = random_.choice(changes)
    table.columns = [change(name) for name in table.columns]


def columns_in_another_order(table: Table, random_: random.Random) -> None:
    order = random_.sample(range(len(table.columns)), len(table.columns))
    table.columns = [table.columns[place] for place in order]
    table.rows = [[row[place] for place in order] for row in table.rows]


def column_dropped(table: Table, random_: random.Random) -> None:
    place = random_.randrange(len(table.columns))
    for cells in (table.columns, *table.rows):
        cells.pop(place)


def column_renamed(table: Table, random_: random.Random) -> None:
    place = random_.randrange(len(table.columns))
    table.columns[place] = random_.choice(["seq", "structure", "", "id", "kind", "observed"])


def column_doubled(table: Table, random_: random.Random) -> None:
    place = random_.randrange(len(table.columns))
    table.columns.append(table.columns[place])
    for row in table.rows:
        row.append(random_.choice([row[place], "", "ACD"]))


def row_doubled(table: Table, random_: random.Random) -> None:
    table.rows.append(list(random_.choice(table.rows)))


def cell_replaced(table: Table, random_: random.Random) -> None:
    row, place = table.place(random_)
    value = str(row[place])
    row[place] = random_.choice(
        [
            *("", " ", "NaN", "None", "0", "1.0", "True", value.lower(), value[:-1], f"{value}A"),
            *(f" {value}", value[::-1], f'{value[:2]}"{value[2:]}', "\u200b", "\0", "H-C", "é"),
        ]
    )


def type_changed(table: Table, random_: random.Random) -> None:
    table.is_binary = True
    place = random_.randrange(len(table.columns))
    changes: list[Callable[[Any], Any]] = [
        *(lambda cell: None, list, lambda cell: 1, lambda cell: float("nan"), lambda cell: True),
        lambda cell: str(cell).encode(),
    ]
    change = random_.choice(changes)
    for row in table.rows:
        row[place] = change(row[place])


def bytes_damaged(table: Table, random_: random.Random) -> None:
    def edit(content: bytes) -> bytes:
        place = random_.randrange(len(content))
        junk = random_.choice([b'"', b"\xff", b"\0", b",", b"\t", b"\n", b"\xef\xbb\xbf"])
        kept = random_.choice([place, place + 1])
        return content[:place] + junk + content[kept:]

    table.edit = edit


def cut_short(table: Table, random_: random.Random) -> None:
    table.edit = lambda content: content[: random_.randrange(len(content))]


def another_encoding(table: Table, random_: random.Random) -> None:
    table.encoding = random_.choice(["utf-16", "utf-16-le", "latin-1", "utf-32"])
    table.rows[0][0] = "é"


HARMLESS = (names_in_another_case, columns_in_another_order)
HARMFUL = (
    *(column_dropped, column_renamed, column_doubled, row_doubled, cell_replaced, cell_replaced),
    *(cell_replaced, type_changed, bytes_damaged, bytes_damaged, cut_short, another_encoding),
)


def variant(make: Callable[[random.Random], Table], seed: int) -> tuple[Table, Table]:
    """Return a table as it was meant, and with what was done to it."""
    meant = make(random.Random(seed))
    table = make(random.Random(seed))
    random_ = random.Random(-seed - 1)
    table.changes.append(other_form(table, random_))
    for change in random_.sample(HARMLESS, random_.randrange(3)):
        change(table, random_)
        table.changes.append(change.__name__)
    for change in random_.sample(HARMFUL, random_.randrange(3)):
        change(table, random_)
        table.changes.append(change.__name__)
        table.must_be_used = False
    return meant, table


def labelled_rows(path: Path) -> list[dict[str, Any]]:
    """Return what was read from a table of labels, by the names of its columns."""
    names = {"id": "id", "group": "group", "kind": "split", "sequence": "sequence"}
    names |= {"ss3": "ss3", "observed": "resolved"}
    rows = [structure_row(protein) for protein in read_labelled_proteins(path)]
    return [{name: row[column] for column, name in names.items()} for row in rows]


def explained(table: Table, column: str, cell: Any) -> bool:
    """Return whether a cell that was read is one that the file has in that column."""
    places = [k for k, name in enumerate(table.columns) if name.strip().lower() == column]
    if not places:
        return True  # the column is not there: a default, which other tests check
    written = [row[place] for row in table.rows for place in places]
    if column in ("split", "kind"):
        return any(
            cell == SPLITS.get(str(each).strip().lower(), str(each).strip().lower() or None)
            or (cell is None and str(each).strip() in ("", "None", "nan"))
            for each in written
        )
    return cell in written or any(str(cell) == str(each).strip() for each in written) or not cell


def outcome(
    read: Callable[[Path], list[dict[str, Any]]], path: Path
) -> tuple[list[dict[str, Any]], str | None]:
    """Return what was read, and the message of a refusal."""
    try:
        return read(path), None
    except UserError as error:
        return [], str(error)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "read"), [(labelled, labelled_rows), (structures, structure_rows)]
)
def test_a_table_is_used_as_it_is_meant_or_told(
    tmp_path: Path,
    make: Callable[[random.Random], Table],
    read: Callable[[Path], list[dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcomes: Counter[str] = Counter()
    for seed in range(VARIANTS):
        meant, table = variant(make, seed)
        path = tmp_path / random.Random(seed).choice(
            ["t.csv", "T.TSV", "t.parquet", "t", "t.csv.gz"]
        )
        try:
            table.write(path, random.Random(seed))
        except (pa.ArrowException, UnicodeEncodeError, ValueError, TypeError):
            outcomes["cannot be written"] += 1
            continue
        found, told = outcome(read, path)
        if told is not None:
            assert not table.must_be_used, (seed, table.changes, told)
            assert "\n" not in told
            assert told.startswith(f"{path}: ")
            outcomes["told"] += 1
            continue
        expected = [
            content_of_row(meant, row) for row in sorted(meant.rows, key=lambda cells: cells[0])
        ]
        if table.must_be_used:
            assert found == expected, (seed, table.changes)
            outcomes["used, the same content"] += 1
        elif cut_short.__name__ in table.changes:
            # between two rows of a text nobody can tell; what is left is what was there
            assert [row["id"] for row in found] == [row["id"] for row in expected][: len(found)]
            outcomes["used, the first rows of a text that was cut"] += 1
        elif bytes_damaged.__name__ in table.changes:
            # a letter of a name, a note or a sequence may be another one now; no row is lost
            assert len(found) in (len(meant.rows), len(table.rows)), (seed, table.changes)
            outcomes["used, after damage to bytes"] += 1
        else:
            assert len(found) == len(table.rows), (seed, table.changes)
            for protein in found:
                for column, cell in protein.items():
                    assert explained(table, column, cell), (seed, table.changes, column, cell)
            outcomes["used, every cell as in the file"] += 1
        path.unlink()
    with capsys.disabled():
        print(f"\n{make.__name__}: {dict(outcomes)}")
    assert outcomes["told"] > VARIANTS / 5
    assert outcomes["used, the same content"] > VARIANTS / 5


def content_of_row(table: Table, row: Sequence[Any]) -> dict[str, Any]:
    cells = dict(zip(table.columns, row, strict=True))
    cells.pop("note", None)
    return {**cells, **({"split": SPLITS[cells["split"]]} if "split" in cells else {})}
