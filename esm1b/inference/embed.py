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
from esm1b.inference.embedding_table import (
    EmbeddingOptions,
    chunks_of,
    embed_records,
    embedding_schema,
    is_embedding_table,
)
from esm1b.inference.fasta_input import CheckedFasta, checked_fasta
from esm1b.inference.long_sequences import LongSequences
from esm1b.inference.model import Device, Model, Precision, load_model
from esm1b.inference.weights_digest import weights_digest
from esm1b.stopping import StopAtOnce
from esm1b.versions import versions

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

    The key `esm1b` of the schema's metadata says, as JSON, what decided the values.

    Memory is bounded by the longest record and a few times 128 MB of representations. Finished rows
    go to `<output>.parts/`, from which the same call goes on after a kill; the result is the same,
    byte for byte. While it is put together they take as much disk as it does, or a little more.

    Example:
        >>> embed(Path("model"), "proteins.fasta", Path("proteins.parquet"))  # doctest: +SKIP
        >>> table = pyarrow.parquet.read_table("proteins.parquet")  # doctest: +SKIP
        >>> numpy.stack(table["layer_33"].to_numpy()).shape  # doctest: +SKIP
        (6000, 1280)

    Args:
        model_directory: ESM-1b, ESM-1v or ESM-2.
        fasta: a path, plain or gzip-compressed; `-` is standard input.
        output: the Parquet file.
        layers: 0 is the input of the stack, -1 what leaves the last layer norm.
        per_residue: keep a vector for each residue.
        long_sequences: what is done to a sequence that is longer than the model takes.
        batch_tokens: tokens that run through the network at once.
        device: where the network runs.
        precision: of the network; results are float32.
        part_seconds: a kill costs the work of about this time, and of one chunk of 16 batches.

    Raises:
        UserError: the model, a record, a layer or the output is not what it must be.
        Stopped: a signal asked to; everything finished is saved.
    """
    _check_output(fasta, output)
    model = load_model(model_directory, device=device, precision=precision)
    options = EmbeddingOptions(
        layers=_resolved(layers, model.layers),
        width=model.width,
        per_residue=per_residue,
        long_sequences=long_sequences,
        longest=model.longest_sequence,
        batch_tokens=batch_tokens,
    )
    with checked_fasta(
        fasta,
        longest=model.longest_sequence,
        long_sequences=long_sequences,
        spool=output.with_name(f".{output.name}.input"),
    ) as records:
        description = {
            "model": model.name,
            "model_sha256": weights_digest(model_directory),
            "input": records.identity,
            "layers": options.layers,
            "per_residue": per_residue,
            "long_sequences": long_sequences,
            "longest_sequence": model.longest_sequence,
            "batch_tokens": batch_tokens,
            "device": model.network.device.type,
            "precision": precision,
            "versions": versions(),
        }
        schema = embedding_schema(options, description)
        parts = EmbeddingParts(output.with_name(f"{output.name}.parts"), schema)
        if parts.rows:
            _log.info("%s: goes on after %d of %d sequences", fasta, parts.rows, records.count)
        try:
            with StopAtOnce().from_signals() as stop:
                _compute(model, records, options, schema, parts, stop, part_seconds)
                parts.assemble(output)
        except UserError:  # the input changed: parts may hold rows of what it was not
            parts.remove()
            raise
        except Stopped as stopped:
            raise Stopped(f"{parts.rows} of {records.count} sequences are saved") from stopped
    parts.remove()
    _log.info("%s: embeddings of %d sequences", output, records.count)


def _compute(
    model: Model,
    records: CheckedFasta,
    options: EmbeddingOptions,
    schema: pa.Schema,
    parts: EmbeddingParts,
    stop: StopAtOnce,
    part_seconds: float,
) -> None:
    """Add to `parts` the rows that are not there yet."""
    waiting: list[pa.Table] = []
    size = 0
    written = time.monotonic()
    with tqdm(
        desc="embed", initial=parts.rows, total=records.count, unit=" sequences", disable=None
    ) as bar:
        try:
            for chunk in chunks_of(records.records(parts.rows), options):
                waiting.append(embed_records(model, chunk, options, schema))
                bar.update(len(chunk))
                size += waiting[-1].nbytes
                if time.monotonic() - written >= part_seconds or size >= _WAITING_BYTES:
                    with stop.held_back():
                        parts.write(waiting)
                        waiting.clear()
                    size = 0
                    written = time.monotonic()
        finally:  # whatever ended it, what is finished is kept
            with stop.held_back():
                if waiting:
                    parts.write(waiting)


def _resolved(layers: Sequence[int], last: int) -> tuple[int, ...]:
    """Return layers as numbers from 0, each once, in the order given."""
    for layer in layers:
        if not -last - 1 <= layer <= last:
            raise UserError(
                f"layer {layer}: the model has layers 0 to {last}; expected one of them, or "
                f"{-last - 1} to -1 counted from the end"
            )
    return tuple(dict.fromkeys(layer % (last + 1) for layer in layers))


def _check_output(fasta: str, output: Path) -> None:
    if output.is_dir():
        raise UserError(f"{output}: is a directory; expected a file to write")
    if output.exists() and Path(fasta).exists() and output.samefile(fasta):
        raise UserError(f"{output}: is the input; expected another file to write")
    if output.exists() and not is_embedding_table(output):
        raise UserError(f"{output}: is no earlier output of embed; expected a new file to write")
