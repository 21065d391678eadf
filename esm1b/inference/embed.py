"""Embeddings of all proteins of a FASTA file, by a job that may be killed at any time."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from esm1b.freed_memory import give_back_freed_memory
from esm1b.inference.fasta_input import EncodedRecord, checked_fasta
from esm1b.inference.long_sequences import LongSequences, greedy_groups, groups_by_length
from esm1b.inference.model import Device, Model, Precision, load_model
from esm1b.inference.result_file import (
    ResultParts,
    check_output_file,
    is_result_file,
    result_schema,
)
from esm1b.inference.resumable import compute_parts
from esm1b.outputs import own_output

_log = logging.getLogger(__name__)

# Sixteen micro-batches of ESM-1b's vectors, one for each residue, would be 0.7 GB for one layer and
# 23 GB for all of them, and there are a few copies of them while they are gathered and written.
_CHUNK_BATCHES: Final = 16
_CHUNK_BYTES: Final = 128 << 20


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
    precision: Precision = "auto",
    part_seconds: float = 60.0,
) -> None:
    """Write the representations of every record of `fasta` to a Parquet file.

    Rows are in the order of the FASTA file; a repeated id is a row of its own. Columns:

    - `id`, the first word of the header, and `length`, the residues of the record;
    - `truncated`, only with `long_sequences="truncate"`: true if the embedding is that of the
      first residues alone;
    - `layer_N` for each layer: float32 `[width]`, the mean over residues (without `<cls>` and
      `<eos>`), or `[length, width]` with `per_residue`.

    The key `esm1b` of the schema's metadata holds everything that decided the values, as JSON.

    Memory is bounded by the longest record and a few times 128 MB of representations. Finished rows
    go to `<output>.parts/`, from which the same call resumes after a kill; the result is the same,
    byte for byte. Until it is complete they take as much disk as it does, or a little more.

    `fasta` may be `-`, standard input. Layer 0 is the input of the stack, -1 leaves the last norm.
    A kill costs the work of about `part_seconds`, and of one chunk of 16 batches.

    Raises:
        UserError: the model, a record, a layer or the output is invalid.
        Stopped: a signal asked to stop; everything finished is saved.
    """
    check_output_file(output, fasta, "embed", is_result_file)
    with own_output(output):
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
            output=output,
        ) as records:
            settings = {
                **model.settings(),
                "long_sequences": long_sequences,
                "input": records.identity,
                "layers": embedder.layers,
                "per_residue": per_residue,
                "batch_tokens": batch_tokens,
                "precision": model.precision,
            }
            schema = embedder.schema(settings)
            parts = ResultParts(output, schema, "embeddings")
            compute_parts(
                parts,
                lambda start: (
                    embedder.table(chunk, schema)
                    for chunk in embedder.chunks(records.records(start))
                ),
                lambda: parts.assemble(output.resolve(), records.count),
                count=records.count,
                source=records.name,
                task="embed",
                unit="sequences",
                part_seconds=part_seconds,
            )
    _log.info("%s: embeddings of %d sequences", output, records.count)


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """A model and the representations to keep of it: see `embed`; `layers` repeat none."""

    model: Model
    layers: Sequence[int]
    per_residue: bool
    long_sequences: LongSequences
    batch_tokens: int

    @property
    def vector_bytes(self) -> int:
        """Bytes of the float32 vectors of one residue."""
        return 4 * self.model.shape.width * len(self.layers)

    def schema(self, settings: Mapping[str, Any]) -> pa.Schema:
        """Return the columns of the table, with `settings` as metadata."""
        values = pa.list_(pa.field("element", pa.float32(), nullable=False), self.model.shape.width)
        if self.per_residue:
            values = pa.list_(pa.field("element", values, nullable=False))
        columns = {
            "id": pa.string(),
            "length": pa.int32(),
            **({"truncated": pa.bool_()} if self.long_sequences == "truncate" else {}),
            **{f"layer_{layer}": values for layer in self.layers},
        }
        return result_schema(columns, settings)

    def chunks(self, records: Iterable[EncodedRecord]) -> Iterator[list[EncodedRecord]]:
        """Yield consecutive records in chunks of about 16 micro-batches, fewer of large results.

        The end of a chunk depends on the records of that chunk alone, so that a job which resumes
        at the start of one makes the same chunks from there on.
        """

        def sizes(record: EncodedRecord) -> tuple[int, int]:
            residues = len(record.residues)
            return residues, (residues if self.per_residue else 1) * self.vector_bytes

        return greedy_groups(records, sizes, (_CHUNK_BATCHES * self.batch_tokens, _CHUNK_BYTES))

    def table(self, records: Sequence[EncodedRecord], schema: pa.Schema) -> pa.Table:
        """Return a row for each record, in their order, with the columns of `schema`."""
        lengths = np.array([len(record.residues) for record in records], dtype=np.int32)
        # [layers, length, width] of each record, or the mean [layers, 1, width]
        embeddings: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(records)
        residues = min(self.batch_tokens, _CHUNK_BYTES // self.vector_bytes)
        for indices in groups_by_length(lengths.tolist(), residues):
            group = self.model.representations(
                [records[index].residues for index in indices],
                layer=self.layers,
                long_sequences=self.long_sequences,
                batch_tokens=self.batch_tokens,
            )
            for index, values in zip(indices, group, strict=True):
                if not self.per_residue:
                    values = values.mean(axis=1, keepdims=True, dtype=np.float64)
                embeddings[index] = values.astype(np.float32, copy=False)
            if self.model.device == "cpu":
                give_back_freed_memory()
        columns: dict[str, pa.Array] = {
            "id": pa.array([record.id for record in records], pa.string()),
            "length": pa.array(lengths),
            "truncated": pa.array(lengths > self.model.longest_sequence),
        }
        ends = np.cumsum([0, *(embedding.shape[1] for embedding in embeddings)], dtype=np.int32)
        for place, layer in enumerate(self.layers):
            kind = schema.field(f"layer_{layer}").type
            flat = pa.array(np.concatenate([embedding[place] for embedding in embeddings]).ravel())
            vectors = kind.value_type if self.per_residue else kind
            column = pa.FixedSizeListArray.from_arrays(flat, type=vectors)
            if self.per_residue:
                column = pa.ListArray.from_arrays(pa.array(ends), column, type=kind)
            columns[f"layer_{layer}"] = column
        return pa.table([columns[name] for name in schema.names], schema=schema)
