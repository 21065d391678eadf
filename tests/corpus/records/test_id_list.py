import gzip
import hashlib
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from esm1b.corpus.records.id_list import read_id_list
from esm1b.errors import UserError
from esm1b.sequences.hashes import id_hashes, joined


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"a\r\n>b with a name\n\nc", [b"a", b"b", b"c"]),
        (b"\n>a first\nMKV\nLAG\n> b\nc\n>c", [b"a", b"b", b"c"]),
        (b"c\na\nb\na", [b"a", b"b", b"c"]),
    ],
)
def test_a_list_and_fasta_name_ids(
    tmp_path: Path, content: bytes, named: list[bytes], compressed: bool
) -> None:
    path = tmp_path / "ids"
    path.write_bytes(gzip.compress(content) if compressed else content)
    ids = read_id_list(path)
    assert len(ids) == len(named)
    assert ids.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not ids.find(id_hashes(*joined([b"d", b"MKV", b">b"]))).any()
    assert not ids.found.any()
    for number, name in enumerate(named, start=1):
        assert ids.find(id_hashes(*joined([b"d", name]))).tolist() == [False, True]
        assert ids.found.sum() == number
    assert ids.definition(2) == {"ids_file_sha256": ids.sha256, "ids": len(named), "found": 2}


P3, P4 = b"UniRef50_P3", b"UniRef50_P4"


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + P3 + b"\r\n" + P4 + b"\r\n",
        b"\xef\xbb\xbf>" + P3 + b"\r\nMKV\r\n>" + P4 + b"\r\nMKV\r\n",
        P3 + b"\r" + P4,
        b'"' + P3 + b'"\n"' + P4 + b'"\n',
        b"'" + P3 + b"',\n'" + P4 + b"',\n",
        "\u201cUniRef50_P3\u201d\n\u00a0UniRef50_P4\u00a0\n".encode(),
        P3 + b"," + P4,
        P3 + b" , " + P4 + b"\n" + P3 + b";" + P4 + b"\n",
        P3 + b" " + P4 + b"\n",
        b"# of the test set\n\n" + P3 + b" Titin, fragment\n  " + P4 + b"\tx\n",
        b"id\n" + P3 + b"\n" + P4 + b"\n",
        b"id,reason\n" + P3 + b",test set\n" + P4 + b',"a, b"\n',
        b'"reason";"Cluster ID"\n"a";"' + P3 + b'"\n"a";"' + P4 + b'"\n',
        b"Reviewed\tEntry\r\nyes\t" + P3 + b"\r\nno\t" + P4 + b"\r\n",
        b",sequence_id\n0," + P3 + b"\n1," + P4 + b"\n",
    ],
    ids=[
        *("mark", "mark-fasta", "cr", "quotes", "sql", "typography", "commas", "semicolons"),
        *("spaces", "comments", "header", "csv", "semicolon-table", "tsv", "pandas"),
    ],
)
def test_a_list_is_read_as_it_was_meant(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ids").write_bytes(content)
    ids = read_id_list(tmp_path / "ids")
    assert set(ids.first) == {P3, P4}
    assert len(ids) == 2
    assert ids.find(id_hashes(*joined([P3, P4, b"id"]))).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("UniRef50_P3\n".encode("utf-16"), "UTF-16 or binary data; expected one sequence id per"),
        (
            b"PK\x03\x04...",
            "a zip archive; expected one sequence id per line, a table with a column",
        ),
        (b"PAR1...", "Parquet; expected"),
        (b'["UniRef50_P3"]', "JSON; expected"),
        (b"<!DOCTYPE html>", "a web page (HTML); expected"),
        (b"why,id\na,P3\nb,\n", "row 'b,' has no id; expected one in each row"),
        (b"why,id\na,P3\nb\n", "row 'b' has no id; expected one in each row"),
    ],
)
def test_what_is_no_list_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "ids").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_id_list(tmp_path / "ids")
    assert str(caught.value).startswith(f"{tmp_path / 'ids'}: {problem}")


def test_the_first_missing_id_is_named_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "ids").write_bytes(b"b\n\xe9\na\n")
    ids = read_id_list(tmp_path / "ids")
    ids.find(id_hashes(*joined([b"b"])))
    assert ids.first_missing(ids.found) == "\u00e9"
    ids.find(id_hashes(*joined([b"a", "\u00e9".encode()])))
    assert ids.first_missing(ids.found) is None


def test_ids_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [b"UniRef50_%d" % number for number in range(200_000)]
    (tmp_path / "ids").write_bytes(b"\n".join(names))
    ids = read_id_list(tmp_path / "ids")
    assert len(ids) == 200_000
    assert ids.find(id_hashes(*joined(names))).all()
    assert ids.found.all()


def test_file_without_ids_or_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ids"
    for content in (b"", b"\n \n", b">\nMKV\n"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="ids: names no id; expected one sequence id per line"):
            read_id_list(path)
    path.write_bytes(gzip.compress(b"a\nb\n")[:-4])
    with pytest.raises(UserError, match=r"ids: the gzip data ends early; expected a complete .gz"):
        read_id_list(path)
    with pytest.raises(UserError, match=r"none: No such file"):
        read_id_list(tmp_path / "none")


RECORDS = [f"UniRef50_{letter}{number}" for letter in "PQ" for number in range(40)]


def _written(draw: random.Random, ids: list[str]) -> bytes:
    """Return a file that people may write who mean `ids`."""
    quote = draw.choice(["", "", '"', "'", "\u201c"])
    closing = "\u201d" if quote == "\u201c" else quote
    cells = [f"{quote}{name}{closing}" for name in ids]
    form = draw.choice(["lines", "table", "bare table", "one line", "fasta", "headers", "json"])
    separator = draw.choice([",", ";", "\t"])
    if form == "table":
        title = draw.choice(
            ["id", "ID", "Entry", "cluster_id", "Cluster ID", "accession", "protein"]
        )
        column = draw.randrange(3)
        rows = [["why", "length", "note"], *(["test set", "31", "x y"] for _ in cells)]
        for row, cell in zip(rows, [title, *cells], strict=True):
            row.insert(column, cell)
        lines = [separator.join(row) for row in rows]
    elif form == "bare table":
        lines = [separator.join([cell, "test set", "31"]) for cell in cells]
    elif form == "one line":
        lines = [draw.choice([",", ", ", " ", ";", " , ", "\t"]).join(cells)]
    elif form == "fasta":
        lines = [line for name in ids for line in (f">{name} Titin, n=3", "MKV")]
    elif form == "headers":
        lines = [f"{name} Titin, fragment n=3" for name in ids]
    elif form == "json":
        lines = [json.dumps(ids)]
    else:
        lines = [cell + draw.choice(["", "", " ", ",", "\t"]) for cell in cells]
    for _ in range(draw.choice([0, 0, 1, 3])):
        lines.insert(
            draw.randrange(len(lines) + 1) if form != "table" else 0, draw.choice(["", "# x"])
        )
    text = draw.choice(["\n", "\n", "\r\n", "\r"]).join(lines) + draw.choice(["", "\n", "\n\n"])
    content = text.encode(draw.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-8"]))
    return gzip.compress(content) if draw.random() < 0.1 else content


@pytest.mark.parametrize("count", [300, pytest.param(5_000, marks=pytest.mark.slow)])
def test_any_list_is_used_or_told(tmp_path: Path, count: int) -> None:
    draw = random.Random(1)
    path = tmp_path / "ids"
    hashes = id_hashes(*joined([name.encode() for name in RECORDS]))
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        named = draw.sample(RECORDS, draw.randrange(1, 6))
        strange = draw.choice([0, 0, 0, 1, 2])
        ids = [*named, *(f"P{number}" for number in range(strange))]  # without the prefix
        draw.shuffle(ids)
        ids += ids[: draw.choice([0, 0, 1])]
        content = _written(draw, ids)
        path.write_bytes(content)
        try:
            found = read_id_list(path)
        except UserError:
            outcomes["refused"] += 1
            continue
        is_named = found.find(hashes).tolist()
        used = {name for name, there in zip(RECORDS, is_named, strict=True) if there}
        assert used <= set(named), content
        if used == set(named):
            outcomes["used, some missing" if found.found.sum() < len(found) else "used"] += 1
            assert strange == 0 or found.found.sum() < len(found), content
        else:
            outcomes["told as missing"] += 1
            assert found.found.sum() < len(found), content
    print(outcomes)
    assert outcomes["used"] > count // 3
