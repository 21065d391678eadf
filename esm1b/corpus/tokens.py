"""Token shards: a corpus as memory-mapped residue tokens."""

import hashlib
import logging
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from esm1b.alphabet import TOKENS, encode
from esm1b.corpus.manifest import (
    CORPUS_FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    SPLITS,
    TOKENS_FORMAT,
    check_shards,
    digest_of,
    read_manifest,
)
from esm1b.corpus.sequence_column import SequenceColumn
from esm1b.corpus.token_dataset import TokenDataset, open_tokens
from esm1b.errors import UserError
from esm1b.files import atomic_directory, sha256_file, write_json

__all__ = ["TokenDataset", "open_tokens", "tokenize", "tokens_fingerprint"]

_LOGGER = logging.getLogger(__name__)

_SCHEMA: Final = pa.schema([pa.field("tokens", pa.large_binary(), nullable=False)])


def tokenize(corpus: Path, output: Path, *, workers: int = 1) -> None:
    """Write the sequences of a corpus as tokens, row for row.

    Each shard becomes one uncompressed Arrow IPC file of one record batch; the column `tokens`
    holds one uint8 per residue (`esm1b.alphabet`), no special tokens, J as X. Takes the memory of
    one shard's residues per worker.

    Args:
        corpus: a corpus directory.
        output: the tokens directory; an earlier one there is replaced.
        workers: processes, each on a shard at a time.

    Raises:
        UserError: the corpus is not one, or differs from its manifest.
    """
    if workers < 1:
        raise UserError(f"workers {workers}: expected at least 1")
    manifest = read_manifest(corpus, CORPUS_FORMAT)
    shards = [shard for split in SPLITS for shard in manifest["shards"][split]]
    check_shards(corpus, shards)
    with atomic_directory(output) as directory:
        for split in SPLITS:
            (directory / split).mkdir()
        entries: dict[str, dict[str, Any]] = {}
        with tqdm(desc="tokenise", total=len(shards), unit=" shards", disable=None) as bar:
            for shard, entry in _tokenize_all(corpus, directory, shards, workers):
                entries[shard["file"]] = entry
                bar.update()
        by_split = {
            split: [entries[shard["file"]] for shard in manifest["shards"][split]]
            for split in SPLITS
        }
        write_json(
            directory / MANIFEST,
            {
                "format": TOKENS_FORMAT,
                "format_version": FORMAT_VERSION,
                "corpus_fingerprint": manifest["fingerprint"],
                "alphabet": list(TOKENS),
                "shards": by_split,
                "fingerprint": tokens_fingerprint(manifest["fingerprint"]),
            },
        )
    residues = sum(entry["residues"] for entry in entries.values())
    _LOGGER.info("%s: %d residues in %d shards", output, residues, len(entries))


def tokens_fingerprint(corpus_fingerprint: str) -> str:
    """Return the SHA-256 over the corpus, the alphabet and the format."""
    return digest_of(
        {
            "format": TOKENS_FORMAT,
            "version": FORMAT_VERSION,
            "corpus": corpus_fingerprint,
            "alphabet": TOKENS,
        }
    )


def _tokenize_all(
    corpus: Path, directory: Path, shards: list[dict[str, Any]], workers: int
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each shard's entry in the corpus manifest and in the tokens manifest, in any order."""
    if workers == 1:
        for shard in shards:
            yield shard, _tokenize_shard(corpus, directory, shard)
        return
    # Arrow's threads do not survive a fork
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(shards)), mp_context=context) as pool:
        pending = {
            pool.submit(_tokenize_shard, corpus, directory, shard): shard for shard in shards
        }
        try:
            for future in as_completed(pending):
                yield pending[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _tokenize_shard(corpus: Path, directory: Path, shard: dict[str, Any]) -> dict[str, Any]:
    """Tokenise one shard and return its entry in the manifest."""
    path = corpus / shard["file"]
    tokens = np.empty(shard["residues"], dtype=np.uint8)
    lengths: list[NDArray[np.int32]] = []
    digest = hashlib.sha256()
    filled = 0
    for column in _row_groups(path):
        column.update(digest)
        end = filled + len(column.characters)
        if end <= len(tokens):  # otherwise the digest is another too
            tokens[filled:end] = _encoded(column, path)
        lengths.append(column.lengths())
        filled = end
    if digest.hexdigest() != shard["sequences_sha256"]:
        raise UserError(
            f"{path}: sequences with digest {digest.hexdigest()}; expected "
            f"{shard['sequences_sha256']}, as in {MANIFEST}"
        )
    offsets = np.zeros(shard["rows"] + 1, dtype=np.int64)
    np.cumsum(np.concatenate([*lengths, np.empty(0, np.int32)]), out=offsets[1:])
    name = f"{Path(shard['file']).with_suffix('.arrow')}"
    _write_tokens(directory / name, tokens, offsets)
    return {
        "file": name,
        "rows": shard["rows"],
        "residues": shard["residues"],
        "bytes": (directory / name).stat().st_size,
        "sha256": sha256_file(directory / name),
    }


def _encoded(column: SequenceColumn, path: Path) -> NDArray[np.uint8]:
    try:
        return encode(column.characters.tobytes())
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _row_groups(path: Path) -> Iterator[SequenceColumn]:
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield SequenceColumn.of(file.read_row_group(group, columns=["sequence"])[0])
    except (pa.ArrowException, OSError, KeyError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: {reason}; expected a Parquet shard of a corpus") from error


def _write_tokens(path: Path, tokens: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(tokens)]
    array = pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)
    batch = pa.record_batch([array], schema=_SCHEMA)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        writer.write_batch(batch)
