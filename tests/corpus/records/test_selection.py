import gzip
import json
import random
from itertools import islice, product
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from esm1b.alphabet import AMINO_ACIDS
from esm1b.corpus.records.selection import Selection, select_rows
from esm1b.corpus.sharding.shard import shard
from esm1b.download.lock import read_source
from esm1b.errors import UserError
from esm1b.sequences.formats import RawBlock

LETTERS = random.Random(3)
LONG = {f"id{n}": "".join(LETTERS.choices(AMINO_ACIDS, k=30)) for n in range(300)}

# 20,000 words of letters, all different
WORDS = ["".join(word).encode() for word in islice(product(AMINO_ACIDS, repeat=4), 20_000)]


def fasta(folder: Path, records: dict[str, str], name: str = "input.fasta") -> str:
    (folder / name).write_text("".join(f">{key}\n{text}\n" for key, text in records.items()))
    return str(folder / name)


def ids(corpus: Path, split: str) -> set[str]:
    paths = (corpus / split).glob("*.parquet")
    return {name for path in paths for name in pq.read_table(path)["id"].to_pylist()}


def kept(corpus: Path) -> set[str]:
    return ids(corpus, "train") | ids(corpus, "validation")


def dropped(manifest: dict[str, Any]) -> dict[str, int]:
    counts = manifest["counts"]
    assert counts["read"] == counts["kept"] + sum(counts["dropped"].values())
    return {reason: count for reason, count in counts["dropped"].items() if count}


def test_lengths_outside_the_range_are_dropped(tmp_path: Path) -> None:
    records = {"a": "M", "b": "MK", "c": "MKV", "d": "MKVL", "e": "MKVLA", "f": "M-", "g": ""}
    (tmp_path / "ids").write_text("c\n")
    manifest = shard(
        [fasta(tmp_path, records)],
        tmp_path / "c",
        Selection(validation_ids=tmp_path / "ids", minimum_length=2, maximum_length=4),
    )
    assert dropped(manifest) == {
        "other_characters": 1,
        "empty_sequence": 1,
        "too_short": 1,
        "too_long": 1,
    }
    assert kept(tmp_path / "c") == {"b", "c", "d"}
    assert manifest["selection"] == {"strict": False, "minimum_length": 2, "maximum_length": 4}


def test_excluded_ids_of_a_list_or_of_fasta_are_left_out(tmp_path: Path) -> None:
    path = fasta(tmp_path, LONG)
    fasta(tmp_path, {"id7 of a search": "MKV", "id9": "", "elsewhere": "W"}, "hits.fasta")
    (tmp_path / "hits").write_bytes(gzip.compress(b"id9\nelsewhere\nid7\n"))
    for name in ("hits.fasta", "hits"):
        manifest = shard(
            [path], tmp_path / "c", Selection(exclude=tmp_path / name, validation_fraction=0.2)
        )
        assert dropped(manifest) == {"excluded": 2}
        assert kept(tmp_path / "c") == LONG.keys() - {"id7", "id9"}
        excluded = manifest["selection"]["excluded"]
        assert (excluded["ids"], excluded["found"]) == (3, 2)


def test_a_sample_is_part_of_a_larger_one_and_cares_for_the_sequence_only(tmp_path: Path) -> None:
    path = fasta(tmp_path, LONG)
    few = shard([path], tmp_path / "few", Selection(sample=0.3, validation_fraction=0.2))
    shard([path], tmp_path / "many", Selection(sample=0.6, validation_fraction=0.2))
    # binomial: 90 +- 8, four standard deviations
    assert abs(few["counts"]["kept"] - 90) < 32
    assert dropped(few) == {"not_in_sample": 300 - few["counts"]["kept"]}
    assert few["selection"]["sample"]["fraction"] == 0.3
    assert kept(tmp_path / "few") < kept(tmp_path / "many") < LONG.keys()
    assert ids(tmp_path / "few", "validation") < ids(tmp_path / "many", "validation")
    renamed = {f"other{key}": text.lower() for key, text in LONG.items()}
    shard(
        [fasta(tmp_path, renamed)],
        tmp_path / "again",
        Selection(sample=0.3, validation_fraction=0.2),
    )
    assert kept(tmp_path / "again") == {f"other{key}" for key in kept(tmp_path / "few")}


def test_a_sequence_that_is_held_out_under_another_id_is_dropped(tmp_path: Path) -> None:
    records = {"a": "MKV", "b": "mkv*", "c": "LAG", "d": "SERT", "e": "SERT"}
    (tmp_path / "ids").write_text("a\nd\ne\n")
    manifest = shard(
        [fasta(tmp_path, records)], tmp_path / "c", Selection(validation_ids=tmp_path / "ids")
    )
    assert dropped(manifest) == {"held_out_sequence": 1}
    assert ids(tmp_path / "c", "train") == {"c"}
    assert ids(tmp_path / "c", "validation") == {"a", "d", "e"}


def test_a_record_counts_under_the_first_reason(tmp_path: Path) -> None:
    records = {"a": "M-", "b": "M", "c": "MKV", "d": "LAG", "e": "WWW"}
    path = fasta(tmp_path, records)
    (tmp_path / "ids").write_text("d\n")
    (tmp_path / "hits").write_text("a\nb\n")
    manifest = shard(
        [path],
        tmp_path / "c",
        Selection(validation_ids=tmp_path / "ids", exclude=tmp_path / "hits", minimum_length=3),
    )
    assert dropped(manifest) == {"other_characters": 1, "excluded": 1}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("id,reason\nid3,test set\nid4,test set\n", 2),
        ('"id3"\n"id4"\n', 2),
        ("\ufeffid3\r\nid4\r\n", 2),
        ("UniRef50_id3\nid3.1\nID3\n", 0),
        ("id3,test\nid4,test\n", 2),  # "test" is told to be missing
        ("id3\nelsewhere\n", 1),
    ],
)
def test_ids_to_exclude_are_used_or_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str, found: int
) -> None:
    path, ids = fasta(tmp_path, LONG), tmp_path / "ids"
    ids.write_text(content)
    options: dict[str, Any] = {"exclude": ids, "validation_fraction": 0.2}
    if found == 0:
        with pytest.raises(UserError) as caught:
            shard([path], tmp_path / "c", Selection(**options))
        assert str(caught.value) == (
            f"{ids}: 0 of its 3 ids are among the records: 'UniRef50_id3' is not, 'id0' is; "
            "expected some, or --allow-partial-list"
        )
        assert sorted(tmp_path.iterdir()) == [ids, Path(path)]
        options["allow_partial_list"] = True
    manifest = shard([path], tmp_path / "c", Selection(**options))
    assert dropped(manifest) == ({"excluded": found} if found else {})
    listed = manifest["selection"]["excluded"]["ids"]
    warning = f"{ids}: {found} of its {listed} ids are among the records: "
    assert (warning in caplog.text) is (listed > found)


def test_an_id_in_both_lists_is_excluded_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, held, out = fasta(tmp_path, LONG), tmp_path / "held", tmp_path / "out"
    held.write_text("id1\nid2\nid3\n")
    out.write_text("id3\nid4\n")
    shard([path], tmp_path / "c", Selection(validation_ids=held, exclude=out))
    assert ids(tmp_path / "c", "validation") == {"id1", "id2"}
    assert f"{held}: 1 of its ids are in {out} too: excluded, not held out" in caplog.text


def test_listed_ids_that_are_missing_are_refused_unless_allowed(tmp_path: Path) -> None:
    path = fasta(tmp_path, LONG | {"bad": "M-"})
    # one that is there but cannot be kept counts as found
    (tmp_path / "ids").write_text("id1\nid2\nbad\ngone1\ngone2\n")
    with pytest.raises(UserError) as caught:
        shard([path], tmp_path / "c", Selection(validation_ids=tmp_path / "ids"))
    assert str(caught.value) == (
        f"{tmp_path}/ids: 3 of its 5 ids are among the records: 'gone1' is not, 'id0' is; "
        "expected all, or --allow-partial-list: ids vanish from release to release"
    )
    assert not (tmp_path / "c").exists()
    manifest = shard(
        [path], tmp_path / "c", Selection(validation_ids=tmp_path / "ids", allow_partial_list=True)
    )
    assert (manifest["split"]["ids"], manifest["split"]["found"]) == (5, 3)
    assert ids(tmp_path / "c", "validation") == {"id1", "id2"}


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            ">a\nMK\n>gap of it\nMK-V\n>b\n\n",
            {},
            r"input.fasta: record 2 (gap): '-' at position 3 of the sequence; expected the letters "
            "A to Z",
        ),
        (">a\nMK\n>b\nM\u00e9\n", {}, "input.fasta: record 2 (b): '\u00e9', U+00E9 (LATIN"),
        (">a\n*\n", {}, "input.fasta: record 1 (a): has no sequence; expected residues"),
        (
            ">a\nMKV\n>b\nM\n",
            {"minimum_length": 2},
            "input.fasta: record 2 (b): length 1; expected at least 2",
        ),
        (
            ">a\nMKV\n>b\nM\n",
            {"maximum_length": 2},
            "input.fasta: record 1 (a): length 3; expected at most 2",
        ),
        (
            ">a\nMKV\n>b\nM\n>b\nM\n",
            {},
            "duplicate id 'b'; expected unique ids",
        ),
    ],
)
def test_strictness_names_the_first_record_that_would_be_dropped(
    tmp_path: Path, text: str, options: dict[str, Any], message: str
) -> None:
    path, ids = tmp_path / "input.fasta", tmp_path / "ids"
    path.write_text(text)
    ids.write_text("a\n")
    for workers in (1, 2):
        with pytest.raises(UserError) as caught:
            shard(
                [str(path)],
                tmp_path / "c",
                Selection(validation_ids=ids, strict=True, **options),
                workers=workers,
            )
        assert message in str(caught.value)
        assert sorted(tmp_path.iterdir()) == [ids, path]


def test_strictness_minds_neither_exclusion_nor_sample(tmp_path: Path) -> None:
    (tmp_path / "hits").write_text("id3\n")
    manifest = shard(
        [fasta(tmp_path, LONG)],
        tmp_path / "c",
        Selection(strict=True, exclude=tmp_path / "hits", sample=0.5, validation_fraction=0.2),
    )
    assert manifest["selection"]["strict"]
    assert dropped(manifest).keys() == {"excluded", "not_in_sample"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minimum_length": 0}, "minimum length 0: expected at least 1"),
        ({"maximum_length": 0}, "maximum length 0: expected at least 1"),
        ({"minimum_length": 5, "maximum_length": 4}, "maximum length 4: expected at least 5"),
        (
            {"validation_fraction": 1.5},
            "validation fraction 1.5: expected a number above 0 and below 1",
        ),
        ({"sample": 0.0}, "sample 0.0: expected a number above 0 and below 1"),
        ({"sample": 1.0}, "sample 1.0: expected a number above 0 and below 1"),
    ],
)
def test_options_that_nothing_can_meet(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Selection(**options)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_impossible_fractions_are_refused(fraction: float) -> None:
    with pytest.raises(UserError, match=r"expected a number above 0 and below 1"):
        Selection(validation_fraction=fraction)


def test_fraction_is_met_and_larger_fractions_hold_out_more() -> None:
    text = b"".join(b">%d\nMKV%s\n" % (n, WORDS[n]) for n in range(20_000))
    block = RawBlock(text=text, kind="fasta", source="input", first_record=0)
    sides = []
    # binomial: 200 +- 14 and 2,000 +- 42, four standard deviations
    for fraction, expected, tolerance in ((0.01, 200, 56), (0.1, 2000, 170)):
        rows, counts = select_rows(block, Selection(validation_fraction=fraction))
        assert counts.held_out == rows.index["is_validation"].sum()
        assert abs(counts.held_out - expected) < tolerance
        sides.append(rows.index["is_validation"].copy())
    assert not (sides[0] & ~sides[1]).any()


def test_listed_ids_are_held_out(tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("a\nb\nc\n")
    selection = Selection(validation_ids=tmp_path / "ids")
    text = b"".join(b">%s\nMKV\n" % name for name in (b"a", b"A", b"b", b"c", b"d"))
    block = RawBlock(text=text, kind="fasta", source="input", first_record=0)
    rows, counts = select_rows(block, selection)
    assert rows.index["is_validation"].tolist() == [True, False, True, True, False]
    assert counts.held_out == selection.found().listed.sum() == 3
    assert selection.split_definition(3) == {
        "method": "ids",
        "ids_file_sha256": "880553fca8fcea94e325ee2cfb48e5a985cc797f39a14cc6d3cedecfeb2ae4d2",
        "ids": 3,
        "found": 3,
    }


def test_source_of_a_lock_file(tmp_path: Path) -> None:
    lock = {
        "format": "esm1b-download",
        "name": "UniRef50",
        "release": "2018_03",
        "limit": None,
        "url": "https://example.org/uniref50.fasta.gz",
        "size": 12,
    }
    path = tmp_path / "download.json"
    path.write_text(json.dumps(lock))
    expected = {key: lock[key] for key in ("name", "release", "url")}
    assert read_source(path) == expected
    path.write_text(json.dumps(lock | {"limit": "10MB", "url": None}))
    assert read_source(path) == {"name": "UniRef50", "release": "2018_03", "limit": "10MB"}
    for content in ('{"name": "UniRef50"}', "[]", '{"name": "x", "release": 2018}'):
        path.write_text(content)
        with pytest.raises(UserError, match=r"download.json: no (name|release); expected"):
            read_source(path)
