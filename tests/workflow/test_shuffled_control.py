"""The sharpest control: the same training on a corpus whose couplings are gone.

Within each family every column is shuffled, so profiles, lengths and composition stay and only the
couplings go. A pipeline that reads contacts from anything else would still find them.
"""

import gzip
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from Bio.SeqIO.FastaIO import SimpleFastaParser

from esm1b.config import Config

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def run(*arguments: str | Path) -> None:
    subprocess.run([str(argument) for argument in arguments], check=True, capture_output=True)


def fasta_records(path: Path) -> list[tuple[str, str]]:
    """Return header lines and sequences."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return list(SimpleFastaParser(file))


def shuffle_columns(source: Path, target: Path) -> None:
    """Write the sequences of `source` with every column of every family permuted."""
    families: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for header, sequence in fasta_records(source):
        name = header.split(" n=")[0].split(maxsplit=1)[1]
        families[name].append((header, sequence))
    generator = np.random.default_rng(0)
    with gzip.open(target, "wt") as file:
        for records in families.values():
            columns = np.array([list(sequence) for _, sequence in records])
            shuffled = generator.permuted(columns, axis=0)
            for (header, _), row in zip(records, shuffled, strict=True):
                file.write(f">{header}\n{''.join(row)}\n")


def train_and_find_contacts(sequences: Path, structures: Path, folder: Path) -> dict[str, Any]:
    """Return the contact precision on test families after the demonstration's own steps."""
    run(BIN / "esm1b", "shard", sequences, "--output", folder / "corpus")
    run(BIN / "esm1b", "tokenize", folder / "corpus", "--output", folder / "tokens")
    run(
        *(BIN / "torchrun", "--standalone", "--nproc-per-node=2", "--no-python"),
        *(BIN / "esm1b", "pretrain", ROOT / "config" / "config.yaml"),
        *("--tokens", folder / "tokens", "--checkpoints", folder / "checkpoints"),
        *("--output", folder / "model"),
    )
    run(
        *(BIN / "esm1b", "evaluate", "contacts", folder / "model", structures),
        *("--regularisation", "cross-validate", "--untrained", "1"),
        *("--output", folder / "contacts"),
    )
    content = json.loads((folder / "contacts" / "metrics.json").read_text())
    (found,) = [
        metric
        for metric in content["metrics"]
        if (metric["name"], metric["model"], metric["subset"])
        == ("precision_at_contacts", "trained", "test")
    ]
    assert isinstance(found, dict)
    return found


def test_shuffling_keeps_the_columns(tmp_path: Path) -> None:
    source, target = tmp_path / "a.fasta", tmp_path / "b.fasta.gz"
    source.write_text(">1 family-1 n=1\nAC\n>2 family-1 n=1\nDE\n>3 family-2 n=1\nFGH\n")
    shuffle_columns(source, target)
    records = fasta_records(target)
    assert [header for header, _ in records] == [
        "1 family-1 n=1",
        "2 family-1 n=1",
        "3 family-2 n=1",
    ]
    first, second = (sequence for _, sequence in records[:2])
    columns = [set(column) for column in zip(first, second, strict=True)]
    assert columns == [{"A", "D"}, {"C", "E"}]
    assert records[2][1] == "FGH"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_contacts_are_found_where_there_are_no_couplings(tmp_path: Path) -> None:
    corpus = Config().corpus.synthetic
    run(
        *(BIN / "esm1b", "synthesize", "--output", tmp_path / "synthetic"),
        *("--families", str(corpus.families), "--unseen-families", str(corpus.unseen_families)),
        *("--sequences", str(corpus.sequences), "--seed", "1"),
    )
    sequences = tmp_path / "synthetic" / "sequences.fasta.gz"
    structures = tmp_path / "synthetic" / "structures.parquet"
    shuffled = tmp_path / "shuffled.fasta.gz"
    shuffle_columns(sequences, shuffled)
    with_couplings = train_and_find_contacts(sequences, structures, tmp_path / "with")
    without = train_and_find_contacts(shuffled, structures, tmp_path / "without")
    assert with_couplings["low"] > 0.3
    # A fit that keeps no coefficient is reported as failed: nothing found either.
    assert without["value"] is None or without["high"] < 0.15
