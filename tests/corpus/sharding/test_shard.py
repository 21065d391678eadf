import gzip
import hashlib
import io
import json
import random
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esm1b.corpus.records.selection import Counts, Selection
from esm1b.corpus.records.table import Rows
from esm1b.corpus.sharding.parquet_shard import ShardFacts
from esm1b.corpus.sharding.shard import shard
from esm1b.corpus.sharding.spill import write_run
from esm1b.corpus.sharding.worker import ShardTask, ShardWorker
from esm1b.errors import OutputError, UserError

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
        Selection(validation_ids=Path(ids)),
        shards=2,
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
        "dropped": {
            "other_characters": 1,
            "empty_sequence": 1,
            "excluded": 0,
            "too_short": 0,
            "too_long": 0,
            "not_in_sample": 0,
            "duplicate_id": 1,
            "held_out_sequence": 0,
        },
    }
    assert manifest["selection"] == {"strict": False}
    assert manifest["split"] == {
        "method": "ids",
        "ids_file_sha256": hashlib.sha256(b"plain\n").hexdigest(),
        "ids": 1,
        "found": 1,
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
    assert sorted(path.name for path in (tmp_path / "corpus").iterdir()) == [
        ".esm1b",
        "manifest.json",
        "train",
        "validation",
    ]


def test_schema_of_a_shard(tmp_path: Path) -> None:
    shard(
        [fasta(tmp_path, "".join(random_records(50)))],
        tmp_path / "c",
        Selection(validation_fraction=0.3),
    )
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
        [fasta(tmp_path, "".join(records))],
        tmp_path / "a",
        Selection(validation_fraction=0.2),
        shards=3,
    )
    random.Random(1).shuffle(records)
    parts = [
        fasta(tmp_path, "".join(records[:100]), "one.fasta"),
        str(tmp_path / "two.gz"),
    ]
    Path(parts[1]).write_bytes(gzip.compress("".join(records[100:]).encode()))
    # many small blocks, runs and pieces of shards instead of one of each
    monkeypatch.setattr("esm1b.corpus.sharding.inputs._BLOCK_BYTES", 1_000)
    monkeypatch.setattr("esm1b.corpus.sharding.worker._RUN_BYTES", 5_000)
    monkeypatch.setattr("esm1b.corpus.sharding.worker._PIECE_BYTES", 2_000)
    second = shard(parts, tmp_path / "b", Selection(validation_fraction=0.2), shards=3)
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
        shard(
            [fasta(tmp_path, content)],
            tmp_path / "c",
            Selection(validation_fraction=0.3),
            shards=shards,
        )["fingerprint"]
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
    shard(
        [fasta(tmp_path, "".join(records + copies))],
        tmp_path / "c",
        Selection(validation_fraction=0.3),
    )
    sides = [{row["sequence"] for row in rows(tmp_path / "c", s)} for s in ("train", "validation")]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 100
    assert len(rows(tmp_path / "c", "train") + rows(tmp_path / "c", "validation")) == 200


def test_shards_share_the_records_and_row_groups_are_cut_at_fixed_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esm1b.corpus.sharding.parquet_shard.ROW_GROUP_ROWS", 40)
    manifest = shard(
        [fasta(tmp_path, "".join(random_records(1000)))],
        tmp_path / "c",
        Selection(validation_fraction=0.3),
        shards=4,
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
    manifest = shard(
        [fasta(tmp_path, text)], tmp_path / "c", Selection(validation_ids=ids), shards=8
    )
    assert len(digests(tmp_path / "c")) == 8 + 3  # validation: round(8 / 3)
    assert sorted(entry["rows"] for entry in manifest["shards"]["train"]) == [0] * 6 + [1, 1]
    assert {row["id"] for row in rows(tmp_path / "c", "train")} == {"b", "c"}


def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Standard:
        buffer = io.BytesIO("".join(random_records(30)).encode())

    monkeypatch.setattr("sys.stdin", Standard)
    manifest = shard(["-"], tmp_path / "c", Selection(validation_fraction=0.4))
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
    with pytest.raises(UserError, match="unknown: 0 of its 1 ids are among the records: 'z' is"):
        shard([path], tmp_path / "c", Selection(validation_ids=Path(unknown)))
    partial = Selection(validation_ids=Path(unknown), allow_partial_list=True)
    with pytest.raises(UserError, match="unknown: its 1 ids leave no validation sequence among 2"):
        shard([path], tmp_path / "c", partial)
    with pytest.raises(UserError, match="every: its 2 ids leave no train sequence among 2"):
        shard([path], tmp_path / "c", Selection(validation_ids=Path(every)))


@pytest.mark.parametrize(("letters", "warns"), [("ACGT", True), ("ACGUN", True), ("AGCTLV", False)])
def test_nucleotides_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, letters: str, warns: bool
) -> None:
    draw = random.Random(1)
    text = "".join(f">g{n}\n{''.join(draw.choices(letters, k=40))}\n" for n in range(40))
    shard([fasta(tmp_path, text)], tmp_path / "c", Selection(validation_fraction=0.3))
    words = "100% of the residues are A, C, G, T, U or N: DNA or RNA; expected proteins"
    assert (f"{tmp_path / 'c'}: {words}" in caplog.text) is warns


def test_inputs_are_given_once_and_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no input"):
        shard([], tmp_path / "c")
    with pytest.raises(UserError, match="x: given more than once"):
        shard(["x", "x"], tmp_path / "c")


def corpus_files(corpus: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(corpus)): path.read_bytes()
        for path in sorted(corpus.rglob("*"))
        if path.is_file()
    }


def test_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = random_records(600)
    records += [f">UniRef50_{number} other\nAMKVMKVMKV\n" for number in range(0, 600, 7)]
    random.Random(2).shuffle(records)
    path = fasta(tmp_path, "".join(records))
    ids = Path(fasta(tmp_path, "".join(f"UniRef50_{n}\n" for n in range(0, 600, 9)), "ids"))
    monkeypatch.setattr("esm1b.corpus.sharding.inputs._BLOCK_BYTES", 2_000)
    selection = Selection(validation_ids=ids, minimum_length=7)
    shard([path], tmp_path / "one", selection, shards=5)
    expected = corpus_files(tmp_path / "one")
    for workers in (2, 3):
        shard([path], tmp_path / "more", selection, shards=5, workers=workers)
        assert corpus_files(tmp_path / "more") == expected
    dropped = json.loads(expected["manifest.json"])["counts"]["dropped"]
    assert dropped["duplicate_id"] == 82  # four of the 86 were too short
    assert dropped["too_short"] > 0
    assert dropped["held_out_sequence"] > 0


IDS = st.text("abc", min_size=1, max_size=3)
SEQUENCES = st.text("MKV", max_size=4) | st.sampled_from(["M-K", "mkv*", "MKVMKVMKV"])
RECORDS = st.lists(st.tuples(IDS, SEQUENCES), min_size=4, max_size=40)


@given(records=RECORDS, others=st.randoms(use_true_random=False), data=st.data())
@settings(max_examples=20, deadline=None)
def test_any_order_and_division_give_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[tuple[str, str]],
    others: random.Random,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("order")
    # something is left on either side whatever was drawn
    records = [*records, ("kept1", "LAGV"), ("kept2", "SERT"), ("held", "IDPK")]
    ids = Path(fasta(folder, "held\nabc\na\n", "ids"))
    found = []
    for name in ("first", "second"):
        with pytest.MonkeyPatch.context() as patch:
            for module, size in (
                ("inputs._BLOCK", 4000),
                ("worker._RUN", 9000),
                ("worker._PIECE", 9000),
            ):
                patch.setattr(
                    f"esm1b.corpus.sharding.{module}_BYTES",
                    data.draw(st.integers(1, size), label=module),
                )
            cut = data.draw(st.integers(1, len(records) - 1))
            paths = [
                fasta(folder, "".join(f">{i}\n{s}\n" for i, s in part), f"{name}{number}")
                for number, part in enumerate((records[:cut], records[cut:]))
            ]
            manifest = shard(
                paths,
                folder / name,
                Selection(validation_ids=ids, allow_partial_list=True),
                shards=3,
            )
        found.append((digests(folder / name), manifest["counts"], manifest["fingerprint"]))
        counts = manifest["counts"]
        assert counts["read"] == len(records)
        assert counts["read"] == counts["kept"] + sum(counts["dropped"].values())
        sides = [
            {row[key] for row in rows(folder / name, side)}
            for key in ("id", "sequence")
            for side in ("train", "validation")
        ]
        assert not sides[0] & sides[1]
        assert not sides[2] & sides[3]
        others.shuffle(records)
    assert found[0] == found[1]


def test_one_id_over_and_over_takes_no_more_memory_than_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esm1b.corpus.sharding.inputs._BLOCK_BYTES", 1_000)
    monkeypatch.setattr("esm1b.corpus.sharding.worker._RUN_BYTES", 20_000)
    sizes: list[int] = []

    def noted(path: Path, rows: Rows) -> int:
        sizes.append(len(rows))
        return write_run(path, rows)

    monkeypatch.setattr("esm1b.corpus.sharding.worker.write_run", noted)
    text = ">same\nMKV\n" * 5000 + ">a\nMK\n>b\nAA\n"
    ids = Path(fasta(tmp_path, "b\n", "ids"))
    manifest = shard([fasta(tmp_path, text)], tmp_path / "c", Selection(validation_ids=ids))
    assert manifest["counts"]["dropped"]["duplicate_id"] == 4999
    assert len(sizes) > 5
    assert max(sizes) <= 3


def test_the_release_of_the_published_list_may_lack_some_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = fasta(tmp_path, ">a\nMKV\n>b\nAA\n>c\nLL\n")
    ids = Path(fasta(tmp_path, "b\ngone\n", "ids"))
    with pytest.raises(UserError, match="1 of its 2 ids are among the records: 'gone' is not"):
        shard(
            [records],
            tmp_path / "other",
            Selection(validation_ids=ids),
            source={"release": "2025_03"},
        )
    shard([records], tmp_path / "own", Selection(validation_ids=ids), source={"release": "2018_03"})
    assert "1 of its 2 ids are among the records" in caplog.text
    # 30.16 million clusters are expected there
    assert "3 records were read of UniRef50 2018_03, which has about 30,160,000" in caplog.text


def test_records_lost_on_the_way_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another program removes a spill file."""
    flush = ShardWorker.flush
    calls = []

    def losing(worker: ShardWorker) -> Counts:
        counts = flush(worker)
        calls.append(1)
        if len(calls) == 1:
            for run in sorted(tmp_path.glob(".corpus~*.partial/spill/run-*"))[1:]:
                run.unlink()
        return counts

    monkeypatch.setattr("esm1b.corpus.sharding.worker._RUN_BYTES", 2000)
    monkeypatch.setattr(ShardWorker, "flush", losing)
    monkeypatch.setattr("esm1b.corpus.sharding.inputs._BLOCK_BYTES", 2000)
    path = fasta(tmp_path, "".join(random_records(200)))
    with pytest.raises(OutputError) as caught:
        shard([path], tmp_path / "corpus", Selection(validation_fraction=0.2), shards=2)
    assert re.fullmatch(
        r".*/manifest\.json: counts\.read: 200; expected \d+, from what was kept and dropped, "
        "as counted while it was written",
        str(caught.value),
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["input.fasta"]


def test_a_shard_that_another_program_changed_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard = ShardWorker.write_shard

    def changing(worker: ShardWorker, task: ShardTask) -> ShardFacts:
        facts = write_shard(worker, task)
        (path,) = tmp_path.glob(f".corpus~*.partial/{task.split}/{task.number:05d}.parquet")
        path.write_bytes(b"PAR1")
        return facts

    monkeypatch.setattr(ShardWorker, "write_shard", changing)
    path = fasta(tmp_path, "".join(random_records(200)))
    with pytest.raises(OutputError, match=r"train/00000\.parquet: 4 bytes; expected \d+ bytes, as"):
        shard([path], tmp_path / "corpus", Selection(validation_fraction=0.2), shards=2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["input.fasta"]
