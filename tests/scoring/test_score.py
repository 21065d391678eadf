"""Likelihoods of the sequences of a FASTA file."""

import csv
import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from esm1b.alphabet import CLS, EOS, MASK, encode
from esm1b.errors import UserError
from esm1b.inference.model import load_model
from esm1b.scoring.score import score
from tests.inference.models import random_sequences, refused, write_fasta, write_model
from tests.scoring.kills import check_kills

SEQUENCES = [*random_sequences(4, longest=20), "MKUBX", "G"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("score") / "model")


@pytest.fixture(scope="module")
def fasta(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_fasta(tmp_path_factory.mktemp("score") / "proteins.fasta", SEQUENCES))


def scored(model: Path, fasta: str, output: Path, **options: Any) -> pa.Table:
    score(model, fasta, output, **options)
    return pq.read_table(output)


def by_definition(model: Path, sequence: str, *, masked: bool) -> list[float]:
    loaded = load_model(model, device="cpu")
    residues = encode(sequence)
    found = []
    for place, residue in enumerate(residues.tolist()):
        tokens = [CLS, *residues.tolist(), EOS]
        if masked:
            tokens[place + 1] = MASK
        row = loaded.log_probabilities(
            np.array(tokens), np.array([len(tokens)]), np.array([place + 1])
        )[0]
        found.append(float(row[residue]))
    return found


@pytest.mark.parametrize("masked", [True, False])
def test_likelihoods_follow_their_definition(
    masked: bool, model: Path, fasta: str, tmp_path: Path
) -> None:
    table = scored(model, fasta, tmp_path / "out.parquet", single_pass=not masked, per_residue=True)
    prefix = "pseudo" if masked else "single_pass"
    names = [f"{prefix}_log_likelihood", f"{prefix}_perplexity", "residue_log_likelihoods"]
    assert table.schema.names == ["id", "length", *names]
    assert table["id"].to_pylist() == [f"protein{n}" for n in range(1, 7)]
    assert table["length"].to_pylist() == [len(sequence) for sequence in SEQUENCES]
    for sequence, total, perplexity, residues in zip(
        SEQUENCES, *(table[name].to_pylist() for name in names), strict=True
    ):
        expected = by_definition(model, sequence, masked=masked)
        np.testing.assert_allclose(residues, expected, rtol=0, atol=5e-5)
        assert total == pytest.approx(sum(residues), abs=1e-9)
        assert perplexity == pytest.approx(math.exp(-total / len(sequence)), abs=1e-9)


def test_csv_has_the_same_numbers(model: Path, fasta: str, tmp_path: Path) -> None:
    table = scored(model, fasta, tmp_path / "out.parquet")
    for _ in range(2):  # its own earlier output is replaced
        score(model, fasta, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == table["id"].to_pylist()
    for name in ("length", "pseudo_log_likelihood", "pseudo_perplexity"):
        assert [float(row[name]) for row in rows] == table[name].to_pylist()


@pytest.mark.parametrize("batch_tokens", [1, 50, 100_000])
def test_likelihoods_depend_on_no_batch_and_no_order(
    batch_tokens: int, model: Path, fasta: str, tmp_path: Path
) -> None:
    table = scored(model, fasta, tmp_path / "one.parquet", per_residue=True)
    turned = str(write_fasta(tmp_path / "turned.fasta", SEQUENCES[::-1]))
    other = scored(
        model, turned, tmp_path / "two.parquet", per_residue=True, batch_tokens=batch_tokens
    )
    for found, expected in zip(
        other["residue_log_likelihoods"].to_pylist()[::-1],
        table["residue_log_likelihoods"].to_pylist(),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5)


def test_long_proteins_are_read_through_windows(model: Path, tmp_path: Path) -> None:
    sequence = "MKTVRQGSAE" * 15
    fasta = str(write_fasta(tmp_path / "long.fasta", [sequence]))
    table = scored(model, fasta, tmp_path / "out.parquet", per_residue=True)
    (found,) = table["residue_log_likelihoods"].to_pylist()
    loaded = load_model(model, device="cpu")
    tokens = [CLS, *encode(sequence).tolist(), EOS]
    for place in (1, 75, 150):
        start = min(max(place - 33, 0), len(tokens) - 66)
        window = tokens[start : start + 66]
        window[place - start] = MASK
        row = loaded.log_probabilities(np.array(window), np.array([66]), np.array([place - start]))
        assert found[place - 1] == pytest.approx(row[0, tokens[place]], abs=5e-5)


def test_the_work_is_told_before_it_begins(
    model: Path, fasta: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    passes = sum(map(len, SEQUENCES))
    tokens = sum(len(sequence) * (len(sequence) + 2) for sequence in SEQUENCES)
    score(model, fasta, tmp_path / "out.csv", batch_tokens=64)
    said = f"{fasta}: {passes} passes of the network, {tokens:,} tokens; about 0"
    assert [message for message in caplog.messages if message.startswith(said)]
    caplog.clear()
    write_fasta(tmp_path / "long.fasta", ["MKTVRQGSAE" * 15])
    score(model, str(tmp_path / "long.fasta"), tmp_path / "out.csv")
    assert "150 passes of the network, 9,900 tokens" in caplog.text


def test_metadata_says_what_decided_the_values(model: Path, fasta: str, tmp_path: Path) -> None:
    table = scored(model, fasta, tmp_path / "out.parquet", single_pass=True)
    described = json.loads(table.schema.metadata[b"esm1b"])
    assert described["masked"] is False
    assert described["window"] == "optimal"
    assert len(described["model_sha256"]) == 64


def test_wrong_outputs_are_refused(
    model: Path, fasta: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"a\.txt: expected a name that ends in \.parquet or \.csv"):
        score(model, fasta, tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"a\.csv: values per residue need Parquet; expected"):
        score(model, fasta, tmp_path / "a.csv", per_residue=True)
    (tmp_path / "b.csv").write_text("id,weight\n")
    message = refused(capsys, "score", model, fasta, "--output", tmp_path / "b.csv")
    assert message == (
        f"{tmp_path / 'b.csv'}: is not an earlier output of score; expected a new file to write"
    )


def killed(model: Path, fasta: str, folder: Path, moments: int) -> None:
    def job(output: Path) -> None:
        score(model, fasta, output, per_residue=True, batch_tokens=40, part_seconds=0)

    check_kills(job, folder, moments, Path.read_bytes)


def test_a_killed_job_ends_with_the_same_bytes(model: Path, fasta: str, tmp_path: Path) -> None:
    killed(model, fasta, tmp_path, 3)


@pytest.mark.slow
def test_jobs_killed_at_ten_moments(model: Path, fasta: str, tmp_path: Path) -> None:
    killed(model, fasta, tmp_path, 10)
