"""Real proteins through `shard` and `tokenize`, beside what Biopython reads."""

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from Bio import SeqIO

from esm1b.alphabet import encode
from esm1b.corpus.records.selection import Selection
from esm1b.corpus.sharding.shard import shard
from esm1b.corpus.tokens.dataset import open_tokens
from esm1b.corpus.tokens.tokenize import tokenize
from tests.conftest import residues

REAL_DATA = os.environ.get("ESM1B_REAL_DATA")
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(
        REAL_DATA is None, reason="ESM1B_REAL_DATA names no directory of real proteins"
    ),
]


def by_biopython(path: Path) -> dict[str, dict[str, Any]]:
    """Return the columns of each record: id, sequence and, with UniProtKB's headers, the name."""
    with gzip.open(path, "rt") as file:
        return {
            record.id: {
                "id": record.id,
                "sequence": str(record.seq),
                "length": len(record.seq),
                "name": record.description.removeprefix(record.id).strip() or None,
                "member_count": None,
                "taxon": None,
                "taxon_id": None,
                "representative_id": None,
            }
            for record in SeqIO.parse(file, "fasta")
        }


def rows(corpus: Path, split: str) -> list[dict[str, Any]]:
    paths = sorted((corpus / split).glob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("uniref90_sample_6000", 6000),
        ("mmseqs2_example_query_500", 500),
        ("ecoli_k12_proteome", 4136),
    ],
)
def test_parquet_holds_what_biopython_reads(
    tmp_path: Path, name: str, count: int, workers: int
) -> None:
    path = Path(REAL_DATA or "") / "sequences" / f"{name}.fasta.gz"
    manifest = shard(
        [str(path)],
        tmp_path / "corpus",
        Selection(validation_fraction=0.05),
        shards=3,
        workers=workers,
    )
    expected = by_biopython(path)
    assert len(expected) == count
    assert manifest["counts"]["read"] == manifest["counts"]["kept"] == count
    train, validation = (rows(tmp_path / "corpus", split) for split in ("train", "validation"))
    assert {row["id"]: row for row in train + validation} == expected
    assert len(train) + len(validation) == count
    assert not {row["sequence"] for row in train} & {row["sequence"] for row in validation}
    tokenize(tmp_path / "corpus", tmp_path / "tokens", workers=workers)
    tokens = open_tokens(tmp_path / "tokens", "train")
    assert len(tokens) == len(train)
    for index, row in enumerate(train):
        np.testing.assert_array_equal(residues(tokens, index), encode(row["sequence"]))


def test_all_files_at_once_in_any_order(tmp_path: Path) -> None:
    paths = sorted(map(str, (Path(REAL_DATA or "") / "sequences").glob("*.fasta.gz")))
    one = shard(paths, tmp_path / "one", Selection(validation_fraction=0.05), shards=4)
    two = shard(
        paths[::-1], tmp_path / "two", Selection(validation_fraction=0.05), shards=4, workers=3
    )
    assert one["counts"]["read"] == 10_636
    assert one["shards"] == two["shards"]
    assert one["fingerprint"] == two["fingerprint"]
