import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import esm1b.corpus.tokens.tokenize
from esm1b.alphabet import TOKENS, encode
from esm1b.corpus.records.selection import Selection
from esm1b.corpus.sharding.shard import shard
from esm1b.corpus.tokens.dataset import TokenDataset, open_tokens
from esm1b.corpus.tokens.tokenize import tokenize
from esm1b.errors import OutputError, UserError
from tests.conftest import residues

SEQUENCES = ["LAGVSERTIDPKQNFYMHWC", "XBUZOJ", "MKV", "MKVLA", "W" * 40, "AC", "DE", "FGH"]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "input.fasta").write_text(
        "".join(f">id{number}\n{sequence}\n" for number, sequence in enumerate(SEQUENCES))
    )
    (folder / "ids").write_text("id2\n")
    # more shards than records: some are empty
    shard(
        [str(folder / "input.fasta")],
        folder / "corpus",
        Selection(validation_ids=folder / "ids"),
        shards=12,
    )
    tokenize(folder / "corpus", folder / "tokens")
    return folder / "corpus", folder / "tokens"


@pytest.fixture(scope="module")
def train(directories: tuple[Path, Path]) -> TokenDataset:
    return open_tokens(directories[1], "train")


def corpus_sequences(corpus: Path, split: str) -> list[str]:
    paths = sorted((corpus / split).glob("*.parquet"))
    return [text for path in paths for text in pq.read_table(path)["sequence"].to_pylist()]


def test_rows_are_those_of_the_corpus(directories: tuple[Path, Path], train: TokenDataset) -> None:
    sequences = corpus_sequences(directories[0], "train")
    assert sorted(sequences) == sorted(set(SEQUENCES) - {"MKV"})
    assert len(train) == 7
    assert train.lengths.dtype == np.int32
    assert train.lengths.tolist() == [len(sequence) for sequence in sequences]
    for index, sequence in enumerate(sequences):
        np.testing.assert_array_equal(residues(train, index), encode(sequence))


def test_literal_tokens(directories: tuple[Path, Path], train: TokenDataset) -> None:
    validation = open_tokens(directories[1], "validation")
    assert len(validation) == 1
    assert residues(validation, 0).tolist() == [20, 15, 7]  # M K V
    sequences = corpus_sequences(directories[0], "train")
    rare = residues(train, sequences.index("XBUZOJ"))
    assert rare.tolist() == [24, 25, 26, 27, 28, 24]
    standard = residues(train, sequences.index("LAGVSERTIDPKQNFYMHWC"))
    assert standard.tolist() == list(range(4, 24))


def test_files_are_single_uncompressed_batches(directories: tuple[Path, Path]) -> None:
    corpus, tokens = directories
    manifest = json.loads((tokens / "manifest.json").read_text())
    assert manifest["format"] == "esm1b-tokens"
    assert manifest["alphabet"] == list(TOKENS)
    corpus_manifest = json.loads((corpus / "manifest.json").read_text())
    assert manifest["corpus_fingerprint"] == corpus_manifest["fingerprint"]
    assert len(manifest["shards"]["train"]) == 12
    for split in ("train", "validation"):
        for entry, parquet in zip(
            manifest["shards"][split], corpus_manifest["shards"][split], strict=True
        ):
            assert entry["file"] == parquet["file"].replace(".parquet", ".arrow")
            path = tokens / entry["file"]
            assert path.stat().st_size == entry["bytes"]
            assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
            reader = pa.ipc.open_file(path)
            assert reader.num_record_batches == 1
            assert reader.schema.field("tokens").type == pa.large_binary()
            rows = reader.get_batch(0).column("tokens").to_pylist()
            assert len(rows) == entry["rows"] == parquet["rows"]
            assert sum(map(len, rows)) == entry["residues"] == parquet["residues"]


def test_views_are_not_copies_and_read_only(train: TokenDataset) -> None:
    view = residues(train, 0)
    assert not view.flags.owndata
    assert not view.flags.writeable


@given(st.data())
def test_gather_is_concatenated_slices(
    directories: tuple[Path, Path], train: TokenDataset, data: st.DataObject
) -> None:
    sequences = corpus_sequences(directories[0], "train")
    indices = data.draw(st.lists(st.integers(0, len(train) - 1), max_size=12))
    starts = [data.draw(st.integers(0, int(train.lengths[index]))) for index in indices]
    counts = [
        data.draw(st.integers(0, int(train.lengths[index]) - start))
        for index, start in zip(indices, starts, strict=True)
    ]
    expected = [
        token
        for index, start, count in zip(indices, starts, counts, strict=True)
        for token in encode(sequences[index])[start : start + count].tolist()
    ]
    found = train.gather(np.array(indices, int), np.array(starts, int), np.array(counts, int))
    assert found.dtype == np.uint8
    assert found.tolist() == expected


def test_gather_frames_each_piece(train: TokenDataset) -> None:
    indices = np.array([3, 0, 3])
    starts, counts = np.array([0, 1, 0]), np.array([2, 1, 0])
    framed = train.gather(indices, starts, counts, before=b"\x00", after=b"\x02")
    first, second = residues(train, 3)[:2].tolist()
    assert framed.tolist() == [0, first, second, 2, 0, int(residues(train, 0)[1]), 2, 0, 2]
    only_before = train.gather(indices, starts, counts, before=b"\x00")
    assert only_before.tolist() == [0, first, second, 0, int(residues(train, 0)[1]), 0]
    nothing = np.empty(0, dtype=np.int64)
    assert train.gather(nothing, nothing, nothing, before=b"\x00").tolist() == []


@pytest.mark.parametrize(
    ("index", "start", "count"), [(7, 0, 1), (-1, 0, 1), (0, -1, 1), (0, 0, -1), (0, 0, 41)]
)
def test_gather_beyond_a_sequence_is_refused(
    train: TokenDataset, index: int, start: int, count: int
) -> None:
    with pytest.raises(IndexError, match="sequence 7 to 7 of 7" if index == 7 else None):
        train.gather(np.array([index]), np.array([start]), np.array([count]))


def test_pickling_maps_the_files_again(train: TokenDataset) -> None:
    content = pickle.dumps(train)
    assert len(content) < 1000
    again = pickle.loads(content)
    assert again.fingerprint == train.fingerprint
    np.testing.assert_array_equal(residues(again, 3), residues(train, 3))


def test_preloaded_shards_no_longer_need_their_files(
    directories: tuple[Path, Path], train: TokenDataset, tmp_path: Path
) -> None:
    tokens = copied(directories[1], tmp_path / "tokens")
    preloaded = open_tokens(tokens, "train", preload=True)
    for path in (tokens / "train").iterdir():
        path.write_bytes(b"")  # a mapped file would end the process here
    assert preloaded.lengths.tolist() == train.lengths.tolist()
    assert preloaded.fingerprint == train.fingerprint
    for index in range(len(train)):
        assert residues(preloaded, index).tolist() == residues(train, index).tolist()
    assert not residues(preloaded, 0).flags.writeable
    every = np.arange(len(train))
    lengths = train.lengths.astype(np.int64)
    gathered = preloaded.gather(every, np.zeros_like(every), lengths)
    assert gathered.tolist() == train.gather(every, np.zeros_like(every), lengths).tolist()


def test_workers_give_the_same_bytes(directories: tuple[Path, Path], tmp_path: Path) -> None:
    corpus, tokens = directories
    tokenize(corpus, tmp_path / "again", workers=2)
    for path in sorted(file for file in tokens.rglob("*") if file.is_file()):
        assert (tmp_path / "again" / path.relative_to(tokens)).read_bytes() == path.read_bytes()


def copied(source: Path, target: Path) -> Path:
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).write_bytes(path.read_bytes())
    return target


def test_changed_token_files_are_refused(directories: tuple[Path, Path], tmp_path: Path) -> None:
    tokens = copied(directories[1], tmp_path / "tokens")
    path = tokens / "train" / "00003.arrow"
    content = path.read_bytes()
    path.write_bytes(content[:-8])
    with pytest.raises(UserError, match=rf"00003.arrow: {len(content) - 8} bytes; expected"):
        open_tokens(tokens, "train")
    path.write_bytes(b"\0" * len(content))
    with pytest.raises(UserError, match=r"00003.arrow: .*expected an Arrow file of tokens"):
        open_tokens(tokens, "train")
    path.unlink()
    with pytest.raises(UserError, match=r"00003.arrow: missing; expected"):
        open_tokens(tokens, "train")
    assert len(open_tokens(tokens, "validation")) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "format 'other'; expected 'esm1b-tokens'"),
        ({"format_version": 2}, "format_version 2; expected 1"),
        ({"alphabet": ["A"]}, "another alphabet; expected <cls> <pad>"),
    ],
)
def test_other_manifests_are_refused(
    directories: tuple[Path, Path], tmp_path: Path, change: dict[str, object], message: str
) -> None:
    tokens = copied(directories[1], tmp_path / "tokens")
    manifest = json.loads((tokens / "manifest.json").read_text())
    (tokens / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(UserError, match=message):
        open_tokens(tokens, "train")


def test_corpus_that_differs_from_its_manifest_is_refused(
    directories: tuple[Path, Path], tmp_path: Path
) -> None:
    corpus = copied(directories[0], tmp_path / "corpus")
    manifest = json.loads((corpus / "manifest.json").read_text())
    (entry,) = [entry for entry in manifest["shards"]["validation"] if entry["rows"]]
    path = corpus / entry["file"]
    table = pq.read_table(path)
    changed = table.set_column(1, "sequence", pa.array(["MKL"]))
    pq.write_table(changed, path)
    with pytest.raises(UserError, match=r"parquet: \d+ bytes; expected"):
        tokenize(corpus, tmp_path / "tokens")
    entry["bytes"] = path.stat().st_size
    (corpus / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"parquet: sequences with digest"):
        tokenize(corpus, tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()
    with pytest.raises(UserError, match=r"no manifest.json; expected a directory of esm1b-corpus"):
        tokenize(tmp_path / "nothing", tmp_path / "tokens")


def test_tokens_lost_on_the_way_are_noticed(
    directories: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cutting(path: Path, values: Any, offsets: Any) -> None:
        write_tokens(path, values, offsets[: max(1, len(offsets) - 1)])

    write_tokens = esm1b.corpus.tokens.tokenize._write_tokens
    monkeypatch.setattr("esm1b.corpus.tokens.tokenize._write_tokens", cutting)
    with pytest.raises(OutputError, match=r"\.arrow: 0 rows with 0 residues; expected 1 with \d+,"):
        tokenize(directories[0], tmp_path / "tokens")
    assert list(tmp_path.iterdir()) == []
