import gzip
import hashlib
import io
import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esm1b.corpus.external_sort import RecordSort, drop_duplicate_ids
from esm1b.corpus.fasta import read_fasta_blocks
from esm1b.corpus.records import RECORD_SCHEMA
from esm1b.corpus.shard_writer import byte_counts
from esm1b.corpus.shards import shard
from esm1b.errors import UserError

AMINO_ACIDS = "LAGVSERTIDPKQNFYMHWC"


def fasta(folder: Path, text: str, name: str = "input.fasta") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def random_records(count: int, seed: int = 0) -> list[str]:
    letters = random.Random(seed)
    return [
        f">UniRef50_{number} Name {number} n={number % 5 + 1} Tax=root TaxID=1 RepID=R{number}\n"
        f"{''.join(letters.choices(AMINO_ACIDS, k=letters.randrange(5, 60)))}\n"
        for number in range(count)
    ]


def rows(corpus: Path, split: str) -> list[dict[str, Any]]:
    paths = sorted((corpus / split).glob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def digests(corpus: Path) -> dict[str, str]:
    return {
        str(path.relative_to(corpus)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(corpus.rglob("*.parquet"))
    }


def test_corpus_of_a_small_file(tmp_path: Path) -> None:
    text = (
        ">UniRef50_K7G060 Titin n=25 Tax=Amniota TaxID=32524 RepID=K7G060_PELSI\nmkv\nLA*\n"
        ">plain\nWWW\n"
        ">gap\nMK-V\n"
        ">none\n*\n"
        ">plain\nAAA\n"
        ">named a name\nMKVLA\n"
    )
    ids = fasta(tmp_path, "plain\n", "ids")
    manifest = shard(
        [fasta(tmp_path, text)],
        tmp_path / "corpus",
        shards=2,
        validation_ids=Path(ids),
        source={"name": "small"},
    )
    assert json.loads((tmp_path / "corpus" / "manifest.json").read_text()) == manifest
    assert rows(tmp_path / "corpus", "validation") == [
        {
            "id": "plain",
            "sequence": "AAA",
            "length": 3,
            "name": None,
            "member_count": None,
            "taxon": None,
            "taxon_id": None,
            "representative_id": None,
        }
    ]
    train = {row.pop("id"): row for row in rows(tmp_path / "corpus", "train")}
    assert train == {
        "UniRef50_K7G060": {
            "sequence": "MKVLA",
            "length": 5,
            "name": "Titin",
            "member_count": 25,
            "taxon": "Amniota",
            "taxon_id": 32524,
            "representative_id": "K7G060_PELSI",
        },
        "named": {
            "sequence": "MKVLA",
            "length": 5,
            "name": "a name",
            "member_count": None,
            "taxon": None,
            "taxon_id": None,
            "representative_id": None,
        },
    }
    assert manifest["source"] == {"name": "small"}
    assert manifest["inputs"] == [
        {
            "file": "input.fasta",
            "bytes": len(text),
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
    ]
    assert manifest["counts"] == {
        "read": 6,
        "kept": 3,
        "dropped": {"other_characters": 1, "empty_sequence": 1, "duplicate_id": 1},
    }
    assert manifest["sequences"] == {"train": 2, "validation": 1}
    assert manifest["residues"] == {"train": 10, "validation": 3}
    assert manifest["composition"] == {"A": 5, "K": 2, "L": 2, "M": 2, "V": 2}
    assert manifest["length_histogram"] == {
        "edges": [3, 4, 5, 6],
        "train": [0, 0, 2],
        "validation": [1, 0, 0],
    }
    assert [entry["file"] for entry in manifest["shards"]["train"]] == [
        "train/00000.parquet",
        "train/00001.parquet",
    ]
    for split in ("train", "validation"):
        for entry in manifest["shards"][split]:
            path = tmp_path / "corpus" / entry["file"]
            assert path.stat().st_size == entry["bytes"]
            assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
            assert pq.read_metadata(path).num_rows == entry["rows"]
    assert not (tmp_path / "corpus" / "runs").exists()


def test_schema_of_a_shard(tmp_path: Path) -> None:
    shard([fasta(tmp_path, "".join(random_records(50)))], tmp_path / "c", validation_fraction=0.3)
    file = pq.ParquetFile(tmp_path / "c" / "train" / "00000.parquet")
    assert {field.name: str(field.type) for field in file.schema_arrow} == {
        "id": "string",
        "sequence": "string",
        "length": "int32",
        "name": "string",
        "member_count": "int32",
        "taxon": "string",
        "taxon_id": "int64",
        "representative_id": "string",
    }
    assert file.metadata.row_group(0).column(1).compression == "ZSTD"


def test_order_and_division_of_the_input_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = random_records(400)
    # one id with three sequences, and one with one sequence and two names
    records += [">same b\nWWW\n", ">same a\nMKV\n", ">same c\nAAA\n", ">twice y\nKK\n"]
    records += [">twice x\nKK\n"]
    first = shard(
        [fasta(tmp_path, "".join(records))], tmp_path / "a", shards=3, validation_fraction=0.2
    )
    random.Random(1).shuffle(records)
    parts = [
        fasta(tmp_path, "".join(records[:100]), "one.fasta"),
        str(tmp_path / "two.gz"),
    ]
    Path(parts[1]).write_bytes(gzip.compress("".join(records[100:]).encode()))
    # many small blocks and runs instead of one of each
    small_runs, small_blocks = (
        partial(RecordSort, run_bytes=5_000),
        partial(read_fasta_blocks, block_bytes=1_000),
    )
    monkeypatch.setattr("esm1b.corpus.shards.RecordSort", small_runs)
    monkeypatch.setattr("esm1b.corpus.shards.read_fasta_blocks", small_blocks)
    second = shard(parts, tmp_path / "b", shards=3, validation_fraction=0.2)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert first["fingerprint"] == second["fingerprint"]
    assert {key: first[key] for key in first if key != "inputs"} == {
        key: second[key] for key in second if key != "inputs"
    }
    kept = rows(tmp_path / "b", "train") + rows(tmp_path / "b", "validation")
    found = {row["id"]: row for row in kept}
    assert (found["same"]["sequence"], found["twice"]["name"]) == ("AAA", "x")
    assert first["counts"]["dropped"]["duplicate_id"] == 3


def test_fingerprint_follows_sequences_and_layout_only(tmp_path: Path) -> None:
    text = "".join(random_records(60))
    fingerprints = [
        shard([fasta(tmp_path, content)], tmp_path / "c", shards=shards, validation_fraction=0.3)[
            "fingerprint"
        ]
        for content, shards in [
            (text, 2),
            (text.lower().replace("name", "x").replace("uniref", "UniRef"), 2),
            (text, 3),
            (text + ">more\nMKV\n", 2),
        ]
    ]
    assert fingerprints[0] == fingerprints[1]
    assert len(set(fingerprints)) == 3


def test_equal_sequences_stay_on_one_side(tmp_path: Path) -> None:
    records = random_records(100)
    copies = [record.replace("UniRef50_", "copy_", 1).lower() for record in records]
    shard([fasta(tmp_path, "".join(records + copies))], tmp_path / "c", validation_fraction=0.3)
    sides = [{row["sequence"] for row in rows(tmp_path / "c", s)} for s in ("train", "validation")]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 100
    assert len(rows(tmp_path / "c", "train") + rows(tmp_path / "c", "validation")) == 200


def test_shards_share_the_records_and_row_groups_are_cut_at_fixed_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esm1b.corpus.shard_writer.ROW_GROUP_ROWS", 40)
    manifest = shard(
        [fasta(tmp_path, "".join(random_records(1000)))],
        tmp_path / "c",
        shards=4,
        validation_fraction=0.3,
    )
    counts = [entry["rows"] for entry in manifest["shards"]["train"]]
    # binomial: 175 +- 11 of about 700 each, four standard deviations
    assert all(abs(count - sum(counts) / 4) < 46 for count in counts)
    assert len(manifest["shards"]["validation"]) == 1  # round(4 * 0.3)
    metadata = pq.read_metadata(tmp_path / "c" / "train" / "00000.parquet")
    sizes = [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)]
    assert sizes == [40] * (counts[0] // 40) + [counts[0] % 40]


def test_more_shards_than_records_leaves_empty_files(tmp_path: Path) -> None:
    text = ">a\nMKV\n>b\nLLL\n>c\nWW\n"
    ids = Path(fasta(tmp_path, "a", "ids"))
    manifest = shard([fasta(tmp_path, text)], tmp_path / "c", shards=8, validation_ids=ids)
    assert len(digests(tmp_path / "c")) == 8 + 3  # validation: round(8 / 3)
    assert sorted(entry["rows"] for entry in manifest["shards"]["train"]) == [0] * 6 + [1, 1]
    assert {row["id"] for row in rows(tmp_path / "c", "train")} == {"b", "c"}


def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Standard:
        buffer = io.BytesIO("".join(random_records(30)).encode())

    monkeypatch.setattr("sys.stdin", Standard)
    manifest = shard(["-"], tmp_path / "c", validation_fraction=0.4)
    assert manifest["counts"]["kept"] == 30
    assert manifest["inputs"][0]["file"] == "-"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            ">a\nMK\n>b\nMKV\n",
            {},
            "validation fraction 0.005 leaves no validation sequence among 2",
        ),
        (">a\nM-\n>b\n\n", {}, "no sequence kept of 2 records"),
        (">a\nMK\n", {"shards": 0}, "shards 0: expected at least 1"),
        (">a\nMK\n", {"validation_fraction": 1.5}, "validation fraction 1.5: expected a number"),
        ("MKV\n", {}, r"input\.fasta: line 1: a sequence before any header: 'MKV'"),
    ],
)
def test_wrong_input_leaves_nothing(
    tmp_path: Path, text: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        shard([fasta(tmp_path, text)], tmp_path / "c", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["input.fasta"]


def test_ids_that_leave_one_side_empty_are_refused(tmp_path: Path) -> None:
    path = fasta(tmp_path, ">a\nMK\n>b\nMKV\n")
    unknown, every = fasta(tmp_path, "z\n", "unknown"), fasta(tmp_path, "a\nb\n", "every")
    with pytest.raises(UserError, match="unknown: its 1 ids leave no validation sequence among 2"):
        shard([path], tmp_path / "c", validation_ids=Path(unknown))
    with pytest.raises(UserError, match="every: its 2 ids leave no train sequence among 2"):
        shard([path], tmp_path / "c", validation_ids=Path(every))


def test_inputs_are_given_once_and_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no input"):
        shard([], tmp_path / "c")
    with pytest.raises(UserError, match="x: given more than once"):
        shard(["x", "x"], tmp_path / "c")


def records_table(rows: list[tuple[int, str, str]]) -> pa.Table:
    keys = [
        {"order": order, "validation": False, "id": name, "sequence": sequence}
        for order, name, sequence in rows
    ]
    return pa.Table.from_pylist(keys, schema=RECORD_SCHEMA)


def test_colliding_hashes_keep_both_ids() -> None:
    table = records_table(
        [(1, "z", "M"), (2, "b", "K"), (2, "a", "W"), (2, "b", "A"), (3, "c", "V")]
    )
    kept = drop_duplicate_ids(table)
    assert kept.select(["id", "sequence"]).to_pylist() == [
        {"id": "z", "sequence": "M"},
        {"id": "a", "sequence": "W"},
        {"id": "b", "sequence": "A"},
        {"id": "c", "sequence": "V"},
    ]


@given(st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 2**63, 2**64 - 1]), max_size=40))
@settings(max_examples=30, deadline=None)
def test_sort_gives_every_record_in_order(
    tmp_path_factory: pytest.TempPathFactory, orders: list[int]
) -> None:
    sort = RecordSort(tmp_path_factory.mktemp("sort") / "runs", run_bytes=200)
    for order in orders:
        sort.add(records_table([(order, "id", "MKV")]))
    assert [o for part in sort.intervals() for o in part["order"].to_pylist()] == sorted(orders)
    assert sort.rows == len(orders)


@given(st.binary(max_size=50))
def test_byte_counts(content: bytes) -> None:
    values = np.frombuffer(content, dtype=np.uint8)
    np.testing.assert_array_equal(byte_counts(values), np.bincount(values, minlength=256))
