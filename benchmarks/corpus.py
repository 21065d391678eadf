"""A corpus of random UniRef-like records, and the peers' way to read and tokenize it."""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.uniref_text import write_uniref
from esm1b.alphabet import TOKENS
from esm1b.corpus.sharding.shard import shard


def add_corpus_options(parser: argparse.ArgumentParser, *, megabytes: float = 500) -> None:
    """Add options for the size of the corpus, its shards, and the temporary files."""
    parser.add_argument(
        "--megabytes",
        type=float,
        default=megabytes,
        help="uncompressed size of the random FASTA input, in MB (1e6 bytes)",
    )
    parser.add_argument("--shards", type=int, default=16, help="number of Parquet shards")
    parser.add_argument(
        "--folder", type=Path, help="parent of the temporary folder for all files (default: /tmp)"
    )


def write_corpus(folder: Path, options: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """Write a corpus below `folder`; return its directory, and its description for a result."""
    fasta, corpus = folder / "uniref50.fasta.gz", folder / "corpus"
    write_uniref(fasta, round(options.megabytes * 1e6), seed=options.seed)
    manifest = shard([str(fasta)], corpus, shards=options.shards, workers=2)
    fasta.unlink()
    return corpus, {
        "source": "drawn",
        "seed": options.seed,
        "sequences": sum(manifest["sequences"].values()),
        "residues": sum(manifest["residues"].values()),
        "shards": options.shards,
    }


def training_sequences(corpus: Path) -> Iterator[str]:
    """Yield the training sequences of a corpus."""
    for path in sorted((corpus / "train").glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(10_000, columns=["sequence"]):
            yield from batch.column(0).to_pylist()


def esm_tokenizer() -> Any:
    """Return `transformers`' tokenizer with ESM-1b's alphabet."""
    from transformers import EsmTokenizer

    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.txt"
        vocabulary.write_text("\n".join(TOKENS))
        return EsmTokenizer(str(vocabulary))
