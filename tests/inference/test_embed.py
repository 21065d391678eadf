import errno
import gzip
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm1b.errors import OutputError, Stopped, UserError
from esm1b.inference import result_file
from esm1b.inference.embed import Embedder, embed
from esm1b.inference.fasta_input import EncodedRecord
from esm1b.inference.model import Model, load_model
from esm1b.weights.model_directory import ModelDirectory
from tests.inference.models import LONGEST, random_sequences, refused, write_fasta, write_model

REPOSITORY = Path(__file__).parents[2]
SEQUENCES = random_sequences(60)
# 16 batches of 8 tokens make a chunk of up to 128 residues: some ten of them
CHUNKED: dict[str, Any] = {"batch_tokens": 8, "part_seconds": 0.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("embed") / "model")


@pytest.fixture
def fasta(tmp_path: Path) -> str:
    return str(write_fasta(tmp_path / "proteins.fasta", SEQUENCES))


def vectors(table: pa.Table, layer: int) -> list[Any]:
    return [np.array(value, dtype=np.float32) for value in table[f"layer_{layer}"].to_pylist()]


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_means_of_layers(model: Path, fasta: str, tmp_path: Path) -> None:
    embed(model, fasta, tmp_path / "out.parquet", layers=[-1, 0, 2, 1])
    table = pq.read_table(tmp_path / "out.parquet")
    # -1 and 2 are one layer; the order is the user's
    assert table.schema.names == ["id", "length", "layer_2", "layer_0", "layer_1"]
    assert table["id"].to_pylist() == [f"protein{n}" for n in range(1, 61)]
    assert table["length"].to_pylist() == [len(sequence) for sequence in SEQUENCES]
    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), 8)
    assert table.schema.field("layer_1").type == vector
    loaded = load_model(model)
    for layer in (0, 1, 2):
        for sequence, found in zip(SEQUENCES, vectors(table, layer), strict=True):
            expected = loaded.representations([sequence], layer=layer)[0].mean(axis=0)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_vectors_of_residues(model: Path, fasta: str, tmp_path: Path) -> None:
    embed(model, fasta, tmp_path / "out.parquet", layers=[1, -1], per_residue=True)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.names == ["id", "length", "layer_1", "layer_2"]
    loaded = load_model(model)
    for layer in (1, 2):
        for sequence, found in zip(SEQUENCES, vectors(table, layer), strict=True):
            expected = loaded.representations([sequence], layer=layer)[0]
            assert found.shape == (len(sequence), 8)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_metadata_says_what_decided_the_values(model: Path, fasta: str, tmp_path: Path) -> None:
    embed(model, fasta, tmp_path / "out.parquet", layers=[-1])
    description = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"esm1b"])
    assert description["model"] == "model"
    assert len(description["model_sha256"]) == 64
    assert description["layers"] == [2]
    assert description["input"]["bytes"] == Path(fasta).stat().st_size
    assert description["precision"] == "fp32"
    assert "torch" in description["versions"]


def test_the_form_of_the_input_does_not_matter(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b"\xef\xbb\xbf\r\n>a first\r\nmkt\r\nVRQG*\r\n>a repeated id\r\nACJU\r\n"
    (tmp_path / "a.fasta").write_bytes(text)
    (tmp_path / "a.gz").write_bytes(gzip.compress(text, mtime=0))
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(text,))
    writer.start()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
    tables = {}
    for name in ("a.fasta", "a.gz", "pipe", "-"):
        path = name if name == "-" else str(tmp_path / name)
        embed(model, path, tmp_path / "out.parquet")
        tables[name] = pq.read_table(tmp_path / "out.parquet")
    writer.join()
    assert tables["a.fasta"]["id"].to_pylist() == ["a", "a"]
    assert tables["a.fasta"]["length"].to_pylist() == [7, 4]
    for table in tables.values():
        assert table.equals(tables["a.fasta"])
    # standard input and a pipe are known by their content: a killed job goes on from them too
    for name in ("pipe", "-"):
        assert tables[name].schema.metadata == tables["a.fasta"].schema.metadata
    assert listing(tmp_path) == ["a.fasta", "a.gz", "out.parquet", "pipe"]


class KilledError(Exception):
    pass


class Counter:
    """Counts the chunks that are computed, and fails instead of computing one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        self.fail_at: int | None = None
        compute = Embedder.table

        def counting(
            embedder: Embedder, model: Model, records: Sequence[EncodedRecord], schema: pa.Schema
        ) -> pa.Table:
            if len(self.rows) == self.fail_at:
                raise KilledError
            self.rows.append(len(records))
            return compute(embedder, model, records, schema)

        monkeypatch.setattr(Embedder, "table", counting)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


@pytest.mark.parametrize("per_residue", [False, True])
def test_a_killed_job_goes_on(
    per_residue: bool,
    model: Path,
    fasta: str,
    tmp_path: Path,
    counter: Counter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    embed(model, fasta, tmp_path / "whole.parquet", per_residue=per_residue, **CHUNKED)
    chunks, counter.rows = counter.rows, []
    assert len(chunks) >= 10
    assert sum(chunks) == 60
    output = tmp_path / "out.parquet"
    counter.fail_at = 4
    with pytest.raises(KilledError):
        embed(model, fasta, output, per_residue=per_residue, **CHUNKED)
    assert not output.exists()
    assert len(listing(tmp_path / "out.parquet.parts")) == 5  # four parts and the stamp
    counter.rows, counter.fail_at = [], None
    embed(model, fasta, output, per_residue=per_residue, **CHUNKED)
    assert counter.rows == chunks[4:]
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert f"resuming after {sum(chunks[:4])} of 60 sequences" in caplog.text
    assert listing(tmp_path) == ["out.parquet", "proteins.fasta", "whole.parquet"]


def test_bytes_do_not_depend_on_when_parts_are_written(
    model: Path, fasta: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_file, "_ROW_GROUP_BYTES", 600)
    for seconds in (0.0, 1e-4, 60.0):
        embed(model, fasta, tmp_path / f"{seconds}.parquet", batch_tokens=8, part_seconds=seconds)
    assert pq.read_metadata(tmp_path / "0.0.parquet").num_row_groups > 1
    whole = (tmp_path / "60.0.parquet").read_bytes()
    assert (tmp_path / "0.0.parquet").read_bytes() == whole
    assert (tmp_path / "0.0001.parquet").read_bytes() == whole


def test_sigkill(model: Path, fasta: str, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    program = f"""
import os, signal
from pathlib import Path
from esm1b.inference.embed import Embedder, embed
compute, calls = Embedder.table, []
def dying(*arguments):
    calls.append(1)
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return compute(*arguments)
Embedder.table = dying
embed(Path({str(model)!r}), {fasta!r}, Path({str(output)!r}), batch_tokens=8, part_seconds=0)
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False)
    assert result.returncode == -signal.SIGKILL
    parts = sorted((tmp_path / "out.parquet.parts").glob("*.arrow"))
    assert len(parts) == 5
    # a write that the kill cut short
    (tmp_path / "out.parquet.parts" / ".000000000030.arrow.partial").write_bytes(b"PAR1")
    written = [path.stat().st_mtime_ns for path in parts]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(result_file.ResultParts, "remove", lambda parts: None)
        embed(model, fasta, output, **CHUNKED)
    assert [path.stat().st_mtime_ns for path in parts] == written
    embed(model, fasta, tmp_path / "whole.parquet", **CHUNKED)
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_what_is_finished(
    number: int, model: Path, fasta: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(model, fasta, tmp_path / "whole.parquet", batch_tokens=8)
    compute, calls = Embedder.table, []

    def interrupted(*arguments: Any) -> pa.Table:
        calls.append(len(arguments[2]))
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return compute(*arguments)

    monkeypatch.setattr(Embedder, "table", interrupted)
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=r"^\d+ of 60 sequences are saved$") as caught:
        embed(model, fasta, tmp_path / "out.parquet", batch_tokens=8)
    assert str(caught.value).startswith(f"{calls[0] + calls[1]} of")
    assert signal.getsignal(number) == before
    monkeypatch.undo()
    embed(model, fasta, tmp_path / "out.parquet", batch_tokens=8)
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_signal_during_a_write_waits_for_its_end(
    model: Path, fasta: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = result_file.ResultParts.write
    written: list[int] = []

    def interrupted(parts: Any, chunks: Any) -> None:
        if not written:
            os.kill(os.getpid(), signal.SIGTERM)
        write(parts, chunks)
        written.append(parts.rows)

    monkeypatch.setattr(result_file.ResultParts, "write", interrupted)
    with pytest.raises(Stopped):
        embed(model, fasta, tmp_path / "out.parquet", **CHUNKED)
    assert len(written) == 1
    part = pa.ipc.open_file(tmp_path / "out.parquet.parts" / "000000000000.arrow").read_all()
    assert part.num_rows == written[0]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"layers": [0]}, "layers"),
        ({"per_residue": True}, "per_residue"),
        ({"precision": "bf16"}, "precision"),
        ({"batch_tokens": 9}, "batch_tokens"),
        ({"long_sequences": "windows"}, "long_sequences"),
    ],
)
def test_parts_of_other_choices_are_not_used(
    changed: dict[str, Any],
    named: str,
    model: Path,
    fasta: str,
    tmp_path: Path,
    counter: Counter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    counter.fail_at = 4
    with pytest.raises(KilledError):
        embed(model, fasta, tmp_path / "out.parquet", **CHUNKED)
    counter.rows, counter.fail_at = [], None
    embed(model, fasta, tmp_path / "out.parquet", **{**CHUNKED, **changed})
    assert sum(counter.rows) == 60
    assert f"out.parquet.parts: from a job that differs in {named}; starting again" in caplog.text


def test_parts_of_another_model_or_input_are_not_used(
    model: Path, fasta: str, tmp_path: Path, counter: Counter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    other_model = write_model(tmp_path / "other" / "model", seed=1)
    other_fasta = str(write_fasta(tmp_path / "other.fasta", SEQUENCES[1:]))
    for arguments, named in (
        ((other_model, fasta), "model_sha256"),
        ((model, other_fasta), "input"),
    ):
        counter.fail_at, counter.rows = 4, []
        with pytest.raises(KilledError):
            embed(model, fasta, tmp_path / "out.parquet", **CHUNKED)
        counter.rows, counter.fail_at = [], None
        embed(*arguments, tmp_path / "out.parquet", **CHUNKED)
        assert sum(counter.rows) >= 59
        assert f"differs in {named};" in caplog.text


def test_a_damaged_part_is_computed_again(
    model: Path, fasta: str, tmp_path: Path, counter: Counter
) -> None:
    embed(model, fasta, tmp_path / "whole.parquet", **CHUNKED)
    chunks = counter.rows
    counter.rows, counter.fail_at = [], 4
    with pytest.raises(KilledError):
        embed(model, fasta, tmp_path / "out.parquet", **CHUNKED)
    third = sorted((tmp_path / "out.parquet.parts").glob("*.arrow"))[2]
    third.write_bytes(third.read_bytes()[:-20])
    counter.rows, counter.fail_at = [], None
    embed(model, fasta, tmp_path / "out.parquet", **CHUNKED)
    assert counter.rows == chunks[2:]
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_parts_that_are_somebodys_own(model: Path, fasta: str, tmp_path: Path) -> None:
    (tmp_path / "out.parquet.parts").mkdir()
    (tmp_path / "out.parquet.parts" / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"out\.parquet\.parts: holds files but no \.esm1b"):
        embed(model, fasta, tmp_path / "out.parquet")


@pytest.mark.parametrize("is_other", [True, False], ids=["another input", "the same"])
def test_a_second_job_is_refused_and_the_parts_of_the_first_stay(
    is_other: bool,
    model: Path,
    fasta: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    embed(model, fasta, tmp_path / "whole.parquet", **CHUNKED)
    other = str(write_fasta(tmp_path / "other.fasta", SEQUENCES[:5])) if is_other else fasta
    (tmp_path / "link.parquet").symlink_to("out.parquet")
    compute, calls = Embedder.table, []

    def interrupted(*arguments: Any) -> pa.Table:
        calls.append(1)
        if len(calls) == 3:
            for name in ("out.parquet", "link.parquet", "../" + tmp_path.name + "/out.parquet"):
                with pytest.raises(UserError, match=r"another process is writing it \(process \d+"):
                    embed(model, other, tmp_path / name, **CHUNKED)
            assert len(list((tmp_path / "out.parquet.parts").glob("*.arrow"))) == 2
        return compute(*arguments)

    monkeypatch.setattr(Embedder, "table", interrupted)
    embed(model, fasta, tmp_path / "out.parquet", **CHUNKED)
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert "starting again" not in caplog.text
    (tmp_path / "link.parquet").unlink()
    names = {"out.parquet", "whole.parquet", "proteins.fasta", Path(other).name}
    assert {path.name for path in tmp_path.iterdir()} == names


@pytest.mark.parametrize(
    "left",
    [
        ["000000000000.arrow"],
        ["000000000030.arrow", ".000000000060.arrow.partial"],
        [".000000000000.arrow~0123abcd.partial"],
        [".esm1b", "000000000000.arrow"],
        [".esm1b"],
    ],
)
def test_parts_without_their_stamp_are_ours(
    left: list[str], model: Path, fasta: str, tmp_path: Path
) -> None:
    parts = tmp_path / "out.parquet.parts"
    parts.mkdir()
    for name in left:
        (parts / name).write_text("embeddings\n" if name == ".esm1b" else "half of it")
    for name in (".out.parquet.input", ".out.parquet~0123abcd.input", ".out.parquet.partial"):
        (tmp_path / name).touch()
    embed(model, fasta, tmp_path / "out.parquet")
    assert listing(tmp_path) == ["out.parquet", "proteins.fasta"]


def test_parts_removed_by_another_program(
    model: Path, fasta: str, tmp_path: Path, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = result_file.ResultParts.write

    def removed(parts: Any, chunks: Any) -> None:
        write(parts, chunks)
        if parts.rows > 40:
            (tmp_path / "out.parquet.parts" / "000000000000.arrow").unlink(missing_ok=True)

    with monkeypatch.context() as context:
        context.setattr(result_file.ResultParts, "write", removed)
        with pytest.raises(OutputError, match=r"0\.arrow: removed by another program while it was"):
            embed(model, fasta, tmp_path / "out.parquet", **CHUNKED)
    embed(model, fasta, tmp_path / "out.parquet", **CHUNKED)
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == 60
    assert listing(tmp_path) == ["out.parquet", "proteins.fasta"]


def test_a_full_disk_keeps_the_parts(
    model: Path,
    fasta: str,
    tmp_path: Path,
    counter: Counter,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left")

    with monkeypatch.context() as context:
        context.setattr(result_file, "write_results", full)
        message = refused(capsys, "embed", model, fasta, "--output", tmp_path / "out.parquet")
    expected = r"/out\.parquet: No space left on device, .* are free .*; expected more room$"
    assert re.search(expected, message)
    computed = len(counter.rows)
    embed(model, fasta, tmp_path / "out.parquet")
    assert len(counter.rows) == computed
    assert listing(tmp_path) == ["out.parquet", "proteins.fasta"]


def test_long_sequences(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sequences = ["MKTVRQG", "ACDEFGHIKLMNPQRSTVWY" * 10]
    fasta = write_fasta(tmp_path / "long.fasta", sequences)
    output = tmp_path / "out.parquet"
    message = refused(capsys, "embed", model, fasta, "--output", output)
    assert message == (
        f"{fasta}: record 2 (protein2): 200 residues; expected at most 64, or a choice of long "
        "sequences: windows or truncate"
    )
    assert not output.exists()
    loaded = load_model(model)
    embed(model, str(fasta), output, long_sequences="windows")
    table = pq.read_table(output)
    assert table.schema.names == ["id", "length", "layer_2"]
    seen = loaded.representations([sequences[1]], long_sequences="windows")[0]
    assert seen.shape == (200, 8)
    np.testing.assert_allclose(vectors(table, 2)[1], seen.mean(axis=0), rtol=0, atol=1e-5)
    embed(model, str(fasta), output, long_sequences="truncate", per_residue=True)
    table = pq.read_table(output)
    assert table.schema.names == ["id", "length", "truncated", "layer_2"]
    assert table["length"].to_pylist() == [7, 200]
    assert table["truncated"].to_pylist() == [False, True]
    first = loaded.representations([sequences[1][:LONGEST]])[0]
    np.testing.assert_allclose(vectors(table, 2)[1], first, rtol=0, atol=1e-5)


def test_memory_is_bounded(
    model: Path, fasta: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(model, fasta, tmp_path / "at once.parquet", layers=[0, 1, 2])
    # 50 residues of 3 layers of width 8 in float32
    monkeypatch.setattr("esm1b.inference.embed._CHUNK_BYTES", 50 * 3 * 8 * 4)
    compute, sizes = Model.representations, []

    def counting(model: Model, sequences: Sequence[Any], **options: Any) -> Any:
        sizes.append(sum(len(sequence) for sequence in sequences))
        return compute(model, sequences, **options)

    monkeypatch.setattr(Model, "representations", counting)
    for per_residue in (False, True):
        embed(model, fasta, tmp_path / "out.parquet", layers=[0, 1, 2], per_residue=per_residue)
    assert max(sizes) <= 50
    embed(model, fasta, tmp_path / "out.parquet", layers=[0, 1, 2])
    together = pq.read_table(tmp_path / "at once.parquet")
    apart = pq.read_table(tmp_path / "out.parquet")
    for layer in (0, 1, 2):
        np.testing.assert_allclose(
            vectors(together, layer), vectors(apart, layer), rtol=0, atol=1e-5
        )


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=60),
    st.integers(1, 8),
    st.booleans(),
    st.data(),
)
def test_chunks_hold_all_records_and_go_on_from_any_of_them(
    lengths: list[int], batch_tokens: int, per_residue: bool, data: st.DataObject
) -> None:
    embedder = Embedder(
        width=4,
        longest_sequence=50,
        layers=(0, 1),
        per_residue=per_residue,
        long_sequences="error",
        batch_tokens=batch_tokens,
    )
    records = [
        EncodedRecord(id=str(number), residues=np.full(length, 5, dtype=np.uint8))
        for number, length in enumerate(lengths)
    ]
    chunks = list(embedder.chunks(records))
    assert [record.id for chunk in chunks for record in chunk] == [record.id for record in records]
    for chunk in chunks:
        residues = sum(len(record.residues) for record in chunk)
        assert len(chunk) == 1 or residues <= 16 * batch_tokens
    done = data.draw(st.integers(0, len(chunks) - 1))
    start = sum(len(chunk) for chunk in chunks[:done])
    again = list(embedder.chunks(records[start:]))
    assert [len(chunk) for chunk in again] == [len(chunk) for chunk in chunks[done:]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b">a\nMKT\n>b x\nMK-T\n",
            "record 2 (b): '-' at position 3 of the sequence; expected the let",
        ),
        (b">a\nMKT\n>b\n>c\nA\n", "record 2 (b): has no sequence; expected residues"),
        (b">a\nMKT\n>b\n*\n", "record 2 (b): has no sequence; expected residues"),
        (
            b">a\nMK<mask>\n",
            "record 1 (a): '<' at position 3 of the sequence; expected the letters",
        ),
        (
            b">a\nM\xc3\xa9\n",
            "record 1 (a): '\u00e9', U+00E9 (LATIN SMALL LETTER E WITH ACUTE) at position 2 of the",
        ),
        (b"MKT\n>a\nMKT\n", "line 1: a sequence before any header: 'MKT'; expected a FASTA header"),
        (b"<html>\n</html>\n", "a web page (HTML); expected a FASTA header line"),
        (b">a\nMKT\n>\nMKT\n", "record 2: a header line without an id"),
        (b"", "empty; expected a FASTA header line"),
        (gzip.compress(b">a\nMKT\n" * 99, mtime=0)[:-9], "the gzip data ends early after"),
    ],
)
def test_wrong_records_are_told_before_anything_is_computed(
    content: bytes,
    message: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "in.fasta"
    path.write_bytes(content)
    found = refused(capsys, "embed", model, path, "--output", tmp_path / "new" / "out.parquet")
    assert found.startswith(f"{path}: {message}")
    assert listing(tmp_path) == ["in.fasta"]


def test_wrong_standard_input(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b">a\nM1\n")))
    found = refused(capsys, "embed", model, "-", "--output", tmp_path / "o.parquet")
    assert found.startswith(
        "standard input: record 1 (a): '1' at position 2 of the sequence; expected"
    )
    assert listing(tmp_path) == []


def test_wrong_arguments(
    model: Path,
    fasta: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out.parquet"

    def refusal(*arguments: str | Path) -> str:
        return refused(capsys, "embed", *arguments)

    assert refusal(model, fasta, "--output", tmp_path) == (
        f"{tmp_path}: is a directory; expected a file to write"
    )
    assert refusal(model, fasta, "--output", fasta) == (
        f"{fasta}: is the input; expected another file to write"
    )
    for layer in ("3", "-4"):
        assert refusal(model, fasta, "--output", output, "--layers", "0", "--layers", layer) == (
            f"layer {layer}: the model has layers 0 (the input of the first) to 2; expected one "
            "of them, or -3 to -1"
        )
    assert refusal(tmp_path / "none", fasta, "--output", output).startswith(f"{tmp_path / 'none'}")
    assert refusal(model, tmp_path / "none.fasta", "--output", output) == (
        f"{tmp_path / 'none.fasta'}: No such file or directory; expected a file to read"
    )
    assert refusal(model, tmp_path, "--output", output) == (
        f"{tmp_path}: is a directory; expected a file"
    )
    assert listing(tmp_path) == ["proteins.fasta"]


def test_an_input_that_changes_meanwhile(
    model: Path, fasta: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ModelDirectory.digest

    def digest(directory: ModelDirectory) -> str:
        Path(fasta).write_text(">a\nMKT\n")  # after the check
        return original(directory)

    monkeypatch.setattr(ModelDirectory, "digest", digest)
    with pytest.raises(UserError, match="changed while it was read; expected the same content"):
        embed(model, fasta, tmp_path / "out.parquet")
    # nor are its parts of any use
    assert listing(tmp_path) == ["proteins.fasta"]


def test_only_an_earlier_output_is_replaced(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model")
    weights = (directory / "model.safetensors").read_bytes()
    (tmp_path / "a.fasta").write_text(">a\nMKTV\n")
    with pytest.raises(UserError, match="is not an earlier output of embed; expected a new file"):
        embed(directory, str(tmp_path / "a.fasta"), directory / "model.safetensors")
    assert (directory / "model.safetensors").read_bytes() == weights
    for _ in range(2):
        embed(directory, str(tmp_path / "a.fasta"), tmp_path / "a.parquet")
