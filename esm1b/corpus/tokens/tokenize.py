"""Token shards: a corpus as memory-mapped residue tokens."""

import hashlib
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from esm1b.alphabet import RESIDUES, TOKENS, encode
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
from esm1b.corpus.records.sequence_column import SequenceColumn
from esm1b.disk_space import explain_full_disk, size_in_words
from esm1b.errors import UserError
from esm1b.files import atomic_directory, sha256_file, write_json
from esm1b.worker_pool import WorkerPool

_log = logging.getLogger(__name__)

_SCHEMA: Final = pa.schema([pa.field("tokens", pa.large_binary(), nullable=False)])

_LETTERS: Final = (RESIDUES + "J").encode()
_NOT_A_RESIDUE: Final = b"\xff"
# as `encode`, but faster
_ENCODING: Final = bytes(
    encode(bytes([byte]))[0] if byte in _LETTERS else _NOT_A_RESIDUE[0] for byte in range(256)
)


def tokenize(corpus: Path, output: Path, *, workers: int = 1) -> None:
    """Write the sequences of a corpus as tokens, row for row.

    Each shard becomes one uncompressed Arrow IPC file of one record batch; the column `tokens`
    holds one uint8 per residue (`esm1b.alphabet`), no special tokens, J as X. Takes the memory of
    one shard's residues per worker.

    Args:
        corpus: a corpus directory.
        output: the tokens directory; an earlier one there is replaced.
        workers: processes, each on a shard at a time; with 1 it is this one.

    Raises:
        UserError: the corpus is not one, or differs from its manifest, or the file system is full.
        ChildProcessError: a worker died.
    """
    if workers < 1:
        raise UserError(f"workers {workers}: expected at least 1")
    manifest = read_manifest(corpus, CORPUS_FORMAT)
    shards = [shard for split in SPLITS for shard in manifest["shards"][split]]
    check_shards(corpus, shards)
    residues = sum(shard["residues"] for shard in shards)
    with (
        explain_full_disk(output, lambda: f"about {size_in_words(residues)}"),
        atomic_directory(output, "tokens", [corpus]) as directory,
    ):
        for split in SPLITS:
            (directory / split).mkdir()
        with (
            tqdm(
                desc="tokenise", total=residues, unit=" residues", unit_scale=True, disable=None
            ) as bar,
            WorkerPool(partial(_Tokenizer, corpus, directory), min(workers, len(shards))) as pool,
        ):
            entries = []
            for entry in pool.map(_Tokenizer.tokenize, shards):
                entries.append(entry)
                bar.update(entry["residues"])
        by_split = {
            split: [entry for entry in entries if entry["file"].startswith(f"{split}/")]
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
    _log.info("%s: %d residues in %d shards", output, residues, len(entries))


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


class _Tokenizer:
    """What one process does of the work."""

    def __init__(self, corpus: Path, directory: Path, number: int) -> None:
        self._corpus = corpus
        self._directory = directory
        # of the largest shard so far: new memory costs as much as what is done with it
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
        _write_tokens(self._directory / name, tokens, offsets)
        return {
            "file": name,
            "rows": shard["rows"],
            "residues": shard["residues"],
            "bytes": (self._directory / name).stat().st_size,
            "sha256": sha256_file(self._directory / name),
        }


def _encoded(column: SequenceColumn, path: Path) -> NDArray[np.uint8]:
    characters = column.characters.tobytes()
    tokens = characters.translate(_ENCODING)
    if _NOT_A_RESIDUE in tokens:
        try:
            encode(characters)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
    return np.frombuffer(tokens, np.uint8)


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
