"""Embeddings of all proteins of a FASTA file, by a job that may be killed at any time."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
from tqdm import tqdm

from esm1b.errors import Stopped, UserError
from esm1b.inference.embedding_parts import EmbeddingParts
from esm1b.inference.embedding_table import Embedder
from esm1b.inference.fasta_input import CheckedFasta, checked_fasta
from esm1b.inference.long_sequences import LongSequences
from esm1b.inference.model import Device, Precision, load_model
from esm1b.inference.result_file import is_result_file
from esm1b.stopping import StopAtOnce

_log = logging.getLogger(__name__)

# Means are small: written for each chunk they would make a hundred thousand files of UniRef50.
_WAITING_BYTES: Final = 128 << 20


def embed(
    model_directory: Path,
    fasta: str,
    output: Path,
    *,
    layers: Sequence[int] = (-1,),
    per_residue: bool = False,
    long_sequences: LongSequences = "error",
    batch_tokens: int = 8192,
    device: Device = "auto",
    precision: Precision = "fp32",
    part_seconds: float = 60.0,
) -> None:
    """Write the representations of every record of `fasta` to a Parquet file.

    Rows are in the order of the FASTA file; a repeated id is a row of its own. Columns:

    - `id`, the first word of the header, and `length`, the residues of the record;
    - `truncated`, only with `long_sequences="truncate"`: whether the record was cut, so that the
      embedding is that of its first residues;
    - `layer_N` for each layer: float32 `[width]`, the mean over residues (without `<cls>` and
      `<eos>`), or `[length, width]` with `per_residue`.

    The key `esm1b` of the schema's metadata holds everything that decided the values, as JSON.

    Memory is bounded by the longest record and a few times 128 MB of representations. Finished rows
    go to `<output>.parts/`, from which the same call resumes after a kill; the result is the same,
    byte for byte. Until it is complete they take as much disk as it does, or a little more.

    Example:
        >>> embed(Path("model"), "proteins.fasta", Path("proteins.parquet"))  # doctest: +SKIP
        >>> table = pyarrow.parquet.read_table("proteins.parquet")  # doctest: +SKIP
        >>> numpy.stack(table["layer_33"].to_numpy()).shape  # doctest: +SKIP
        (6000, 1280)

    `fasta` may be `-`, standard input. Layer 0 is the input of the stack, -1 leaves the last norm.
    A kill costs the work of about `part_seconds`, and of one chunk of 16 batches.

    Raises:
        UserError: the model, a record, a layer or the output is invalid.
        Stopped: a signal asked to stop; everything finished is saved.
    """
    _check_output(fasta, output)
    model = load_model(model_directory, device=device, precision=precision)
    embedder = Embedder(
        model=model,
        layers=list(dict.fromkeys(model.layer_numbers(layers))),
        per_residue=per_residue,
        long_sequences=long_sequences,
        batch_tokens=batch_tokens,
    )
    with checked_fasta(
        fasta,
        longest=model.longest_sequence,
        long_sequences=long_sequences,
        spool=output.with_name(f".{output.name}.input"),
    ) as records:
        settings = {
            **model.settings(long_sequences),
            "input": records.identity,
            "layers": embedder.layers,
            "per_residue": per_residue,
            "batch_tokens": batch_tokens,
            "precision": precision,
        }
        schema = embedder.schema(settings)
        parts = EmbeddingParts(output.with_name(f"{output.name}.parts"), schema)
        if parts.rows:
            _log.info("%s: resuming after %d of %d sequences", fasta, parts.rows, records.count)
        try:
            with StopAtOnce().from_signals() as stop:
                _compute(embedder, records, parts, stop, part_seconds)
                parts.assemble(output)
        except UserError:  # the input changed: parts may hold rows of its earlier content
            parts.remove()
            raise
        except Stopped as stopped:
            raise Stopped(f"{parts.rows} of {records.count} sequences are saved") from stopped
    parts.remove()
    _log.info("%s: embeddings of %d sequences", output, records.count)


def _compute(
    embedder: Embedder,
    records: CheckedFasta,
    parts: EmbeddingParts,
    stop: StopAtOnce,
    part_seconds: float,
) -> None:
    """Add the missing rows to `parts`."""
    waiting: list[pa.Table] = []
    size = 0
    written = time.monotonic()
    with tqdm(
        desc="embed", initial=parts.rows, total=records.count, unit=" sequences", disable=None
    ) as bar:
        try:
            for chunk in embedder.chunks(records.records(parts.rows)):
                waiting.append(embedder.table(chunk, parts.schema))
                bar.update(len(chunk))
                size += waiting[-1].nbytes
                if time.monotonic() - written >= part_seconds or size >= _WAITING_BYTES:
                    with stop.held_back():
                        parts.write(waiting)
                        waiting.clear()
                    size = 0
                    written = time.monotonic()
        finally:  # however it ended, finished work is kept
            with stop.held_back():
                if waiting:
                    parts.write(waiting)


def _check_output(fasta: str, output: Path) -> None:
    if output.is_dir():
        raise UserError(f"{output}: is a directory; expected a file to write")
    if output.exists() and Path(fasta).exists() and output.samefile(fasta):
        raise UserError(f"{output}: is the input; expected another file to write")
    if output.exists() and not is_result_file(output):
        raise UserError(
            f"{output}: is not an earlier output of embed; expected a new file to write"
        )
