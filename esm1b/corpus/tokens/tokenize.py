"""Token shards: a corpus as memory-mapped residue tokens."""

import hashlib
import logging
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from esm1b.alphabet import TOKENS, encode
from esm1b.corpus.manifest import (
    CORPUS_FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    SPLITS,
    TOKENS_FORMAT,
    checked_shards,
    read_manifest,
    shard_entry,
    tokens_fingerprint,
)
from esm1b.corpus.records.table import SequenceColumn
from esm1b.corpus.sharding.parquet_shard import read_column
from esm1b.corpus.tokens.dataset import open_shard
from esm1b.errors import UserError
from esm1b.files import write_json
from esm1b.outputs import atomic_directory
from esm1b.read_back import reading_back
from esm1b.worker_pool import start_workers

_log = logging.getLogger(__name__)

_OFFSET_BYTES: Final = 8
_BESIDES: Final = 4096  # of a shard, at most: Arrow's own, and a block that is not full
_SCHEMA: Final = pa.schema([pa.field("tokens", pa.large_binary(), nullable=False)])


def tokenize(corpus: Path, output: Path, *, workers: int = 1) -> None:
    """Write the sequences of a corpus as tokens, row for row.

    Each shard becomes one uncompressed Arrow IPC file of one record batch; the column `tokens`
    holds one uint8 per residue (`esm1b.alphabet`), no special tokens, J as X. Takes the memory of
    one shard's residues per worker.

    Args:
        corpus: directory of a corpus.
        output: directory of the tokens; an earlier one there is replaced.
        workers: number of processes, each on a shard at a time; with 1 it is this one.

    Raises:
        UserError: there is no corpus, it differs from its manifest, another process writes
            `output`, or the file system is full.
        OutputError: the files do not hold what was counted on the way.
        ChildProcessError: a worker died.
    """
    manifest = read_manifest(corpus, CORPUS_FORMAT)
    shards = checked_shards(corpus, manifest)
    residues = sum(shard["residues"] for shard in shards)
    size = sum(shard["residues"] + _OFFSET_BYTES * shard["rows"] + _BESIDES for shard in shards)
    with atomic_directory(output, "tokens", [corpus], need=lambda: size) as directory:
        for split in SPLITS:
            (directory / split).mkdir()
        build = partial(_Tokenizer, corpus, directory)
        with (
            tqdm(
                desc="tokenise", total=residues, unit=" residues", unit_scale=True, disable=None
            ) as bar,
            start_workers(build, min(workers, len(shards))) as pool,
        ):
            entries: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
            for entry in pool.map(_Tokenizer.tokenize, shards):
                entries[str(Path(entry["file"]).parent)].append(entry)
                bar.update(entry["residues"])
        content = {
            "format": TOKENS_FORMAT,
            "format_version": FORMAT_VERSION,
            "corpus_fingerprint": manifest["fingerprint"],
            "alphabet": list(TOKENS),
            "shards": entries,
            "fingerprint": tokens_fingerprint(manifest["fingerprint"]),
        }
        write_json(directory / MANIFEST, content)
        with reading_back():
            for entry in checked_shards(directory, content):
                open_shard(directory / entry["file"], entry, preload=False)
    _log.info("%s: %d residues in %d shards", output, residues, len(shards))


class _Tokenizer:
    """Tokenises shards in one process."""

    def __init__(self, corpus: Path, directory: Path, number: int) -> None:
        self._corpus = corpus
        self._directory = directory
        # as large as the largest shard so far: new memory costs as much as the work on it
        self._memory = np.empty(0, dtype=np.uint8)

    def tokenize(self, shard: dict[str, Any]) -> dict[str, Any]:
        """Tokenise a shard and return its entry in the manifest."""
        path = self._corpus / shard["file"]
        if len(self._memory) < shard["residues"]:
            self._memory = np.empty(shard["residues"], dtype=np.uint8)
        tokens = self._memory[: shard["residues"]]
        lengths: list[NDArray[np.int32]] = []
        digest = hashlib.sha256()
        filled = 0
        for column in map(SequenceColumn.of, read_column(path, "sequence")):
            column.update(digest)
            end = filled + len(column.characters)
            if end <= len(tokens):  # otherwise the digest differs too
                try:
                    tokens[filled:end] = encode(column.characters.data)
                except ValueError as error:
                    raise UserError(f"{path}: {error}") from error
            lengths.append(column.lengths())
            filled = end
        if digest.hexdigest() != shard["sequences_sha256"]:
            raise UserError(
                f"{path}: sequences with digest {digest.hexdigest()}; expected "
                f"{shard['sequences_sha256']}, as in {MANIFEST}"
            )
        offsets = np.zeros(shard["rows"] + 1, dtype=np.int64)
        np.cumsum(np.concatenate([*lengths, np.empty(0, np.int32)]), out=offsets[1:])
        output = (self._directory / shard["file"]).with_suffix(".arrow")
        _write_tokens(output, tokens, offsets)
        return shard_entry(output, shard["rows"], shard["residues"])


def _write_tokens(path: Path, tokens: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(tokens)]
    array = pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)
    batch = pa.record_batch([array], schema=_SCHEMA)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        writer.write_batch(batch)
