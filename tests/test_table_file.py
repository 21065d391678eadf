import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from esm1b.errors import UserError
from esm1b.table_file import read_table

KNOWN = ("id", "sequence", "ss3")
CSV = b"id,sequence,ss3,length\np1,ACD,HHC,3\np2,MK,,2\n"
ROWS = [
    {"id": "p1", "sequence": "ACD", "ss3": "HHC"},
    {"id": "p2", "sequence": "MK", "ss3": None},
]
TABLE = pa.table(
    {"id": ["p1", "p2"], "sequence": ["ACD", "MK"], "ss3": ["HHC", None], "length": [3, 2]}
)


def write_stream(table: pa.Table, path: Path) -> None:
    """Write an Arrow stream, as the datasets of Hugging Face are."""
    with pa.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table)


@pytest.mark.parametrize(
    "write",
    [pq.write_table, feather.write_feather, write_stream],
    ids=["parquet", "feather", "stream"],
)
@pytest.mark.parametrize("name", ["table.parquet", "TABLE.ARROW", "table.csv"])
def test_the_content_of_a_binary_table_tells_its_format(
    tmp_path: Path, write: Callable[[pa.Table, Path], None], name: str
) -> None:
    write(TABLE, tmp_path / name)
    assert read_table(tmp_path / name, KNOWN)[1] == ROWS
    (tmp_path / "packed").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    assert read_table(tmp_path / "packed", KNOWN)[1] == ROWS


@pytest.mark.parametrize(
    "content",
    [
        CSV,
        CSV.replace(b",", b"\t"),
        CSV.replace(b",", b";"),
        CSV.replace(b"\n", b"\r\n"),
        CSV.replace(b"\n", b"\r"),
        CSV.replace(b"\n", b"\n\n"),
        CSV.replace(b"\n", b",,\n"),
        CSV.rstrip(),
        b"\xef\xbb\xbf" + CSV,
        CSV.replace(b"id,sequence", b'"ID", Sequence '),
        CSV.replace(b"p1,ACD", b'"p1","ACD"'),
        gzip.compress(CSV, mtime=0),
        gzip.compress(CSV[:30], mtime=0) + gzip.compress(CSV[30:], mtime=0) + bytes(512),
    ],
    ids=[
        *(
            "commas",
            "tabs",
            "semicolons",
            "windows",
            "mac",
            "blank lines",
            "empty cells at the end",
        ),
        *("no newline", "byte order mark", "names of columns", "quotes", "gzip", "gzip members"),
    ],
)
@pytest.mark.parametrize("name", ["table.csv", "TABLE.CSV", "table.tsv.gz", "table.parquet"])
def test_the_content_of_a_text_tells_its_format(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    columns, rows = read_table(tmp_path / name, KNOWN)
    assert columns[:4] == ["id", "sequence", "ss3", "length"]
    assert rows == ROWS


def test_a_quoted_cell_may_hold_delimiters_and_newlines(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text('id,sequence,note\n"a,b",ACD,"two\nlines, ""quoted"""\n')
    assert read_table(tmp_path / "table.csv", KNOWN)[1] == [{"id": "a,b", "sequence": "ACD"}]


def test_values_keep_their_types_and_nan_is_empty(tmp_path: Path) -> None:
    categories = pa.array(["H", "H"]).dictionary_encode()
    table = pa.table({"Id": [1.5, float("nan")], "sequence": [["A"], ["C"]], "SS3 ": categories})
    pq.write_table(table, tmp_path / "table.parquet")
    assert read_table(tmp_path / "table.parquet", KNOWN)[1] == [
        {"id": 1.5, "sequence": ["A"], "ss3": "H"},
        {"id": None, "sequence": ["C"], "ss3": "H"},
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"id,ID,sequence\n1,2,A\n", "has the column id 2 times; expected one"),
        (b"id,sequence,sequence\n1,A,C\n", "has the column sequence 2 times; expected one"),
        (b"id,sequence\np1,ACD\np2,AC,HH\n", "row 2 has 3 cells; expected 2"),
        (b'id,sequence,note\np1,ACD,"a\np2,AC,\n', "line 3: invalid CSV: unexpected end of data"),
        (b'id,sequence,note\np1,ACD,"a\np2,AC,"b\n', "line 3: invalid CSV: ',' expected after"),
        (b"id,sequence\np1,ACD\np\xe9,AC\n", "line 3: byte 0xe9 is not UTF-8; expected CSV or TSV"),
        ("id,sequence\n".encode("utf-16"), "is not a table; expected CSV or TSV in UTF-8"),
        (b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00\xff", "is not a table; expected CSV"),
        (b"PAR1 and nothing of Parquet", "cannot be read as a table: Parquet"),
        (b"ARROW1", "cannot be read as a table: "),
        (b"\xff\xff\xff\xff\x10", "cannot be read as a table: "),
        (gzip.compress(CSV, mtime=0)[:-9], "cannot be read: "),
        (gzip.compress(CSV, mtime=0) + b"junk", "cannot be read: Not a gzipped file"),
    ],
)
def test_what_is_no_table_is_told_in_a_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "table"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_table(path, KNOWN)
    assert str(caught.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(caught.value)


def test_columns_that_nobody_needs_may_repeat(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("id,,note,,note\np1,,,,\n")
    assert read_table(tmp_path / "table.csv", KNOWN)[1] == [{"id": "p1"}]
