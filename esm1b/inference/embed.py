"""Embeddings of all proteins of a FASTA file, by a job that may be killed at any time."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from esm1b.freed_memory import give_back_freed_memory
from esm1b.inference.devices import load_on_devices
from esm1b.inference.fasta_input import EncodedRecord, checked_fasta
from esm1b.inference.long_sequences import LongSequences, greedy_groups, groups_by_length
from esm1b.inference.model import Device, Model, Precision
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
    devices: str = "1",
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

    Memory is bounded by the longest record and, for each of the `devices` (see `load_on_devices`),
    a few times 128 MB of representations. Finished rows go to `<output>.parts/`, from which the
    same call resumes after a kill, with any number of devices; the result is the same, byte for
    byte (in bf16 on a CPU with as many threads in each process). Until it is complete they take as
    much disk as it does, or a little more.

    `fasta` may be `-`, standard input. Layer 0 is the input of the stack, -1 leaves the last norm.
    A kill costs the work of about `part_seconds`, and the chunks of 16 batches under way.

    Raises:
        UserError: the model, a record, a layer, the number of devices or the output is invalid.
        ChildProcessError: one of several processes died; everything finished is saved.
        Stopped: a signal asked to stop; everything finished is saved.
    """
    check_output_file(output, fasta, "embed", is_result_file)
    with (
        own_output(output),
        load_on_devices(model_directory, devices, device=device, precision=precision) as models,
    ):
        embedder, *_ = models.each(
            partial(
                Embedder.of,
                layers=layers,
                per_residue=per_residue,
                long_sequences=long_sequences,
                batch_tokens=batch_tokens,
            )
        )
        with checked_fasta(
            fasta,
            longest=embedder.longest_sequence,
            long_sequences=long_sequences,
            output=output,
        ) as records:
            settings = {
                **models.each(Model.settings)[0],
                "long_sequences": long_sequences,
                "input": records.identity,
                "layers": embedder.layers,
                "per_residue": per_residue,
                "batch_tokens": batch_tokens,
                "precision": models.each(attrgetter("precision"))[0],
            }
            schema = embedder.schema(settings)
            parts = ResultParts(output, schema, "embeddings")
            compute_parts(
                parts,
                lambda start: map(
                    _read_stream,
                    models.map(
                        partial(embedder.stream, settings=settings),
                        embedder.chunks(records.records(start)),
                    ),
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
    """The representations to keep of a model: see `embed`.

    Attributes:
        width: width of the model.
        longest_sequence: most residues that it takes.
        layers: numbers of layers, without repeats.
        per_residue: True if the vectors of all residues are kept, False for their mean.
        long_sequences: treatment of longer sequences.
        batch_tokens: residues in one forward pass.
    """

    width: int
    longest_sequence: int
    layers: Sequence[int]
    per_residue: bool
    long_sequences: LongSequences
    batch_tokens: int

    @classmethod
    def of(cls, model: Model, *, layers: Sequence[int], **options: Any) -> "Embedder":
        """Return the representations of `model` to keep; `layers` may repeat and be negative."""
        return cls(
            width=model.shape.width,
            longest_sequence=model.longest_sequence,
            layers=list(dict.fromkeys(model.layer_numbers(layers))),
            **options,
        )

    @property
    def vector_bytes(self) -> int:
        """Bytes of the float32 vectors of one residue."""
        return 4 * self.width * len(self.layers)

    def schema(self, settings: Mapping[str, Any]) -> pa.Schema:
        """Return the columns of the table, with `settings` as metadata."""
        values = pa.list_(pa.field("element", pa.float32(), nullable=False), self.width)
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

    def stream(
        self, model: Model, records: Sequence[EncodedRecord], settings: Mapping[str, Any]
    ) -> pa.Buffer:
        """Return `table` in Arrow's stream format; pickled, its lists would get nullable values."""
        table = self.table(model, records, self.schema(settings))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return sink.getvalue()

    def table(self, model: Model, records: Sequence[EncodedRecord], schema: pa.Schema) -> pa.Table:
        """Return a row for each record, in their order, with the columns of `schema`."""
        lengths = np.array([len(record.residues) for record in records], dtype=np.int32)
        # [layers, length, width] of each record, or the mean [layers, 1, width]
        embeddings: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(records)
        residues = min(self.batch_tokens, _CHUNK_BYTES // self.vector_bytes)
        for indices in groups_by_length(lengths.tolist(), residues):
            group = model.representations(
                [records[index].residues for index in indices],
                layer=self.layers,
                long_sequences=self.long_sequences,
                batch_tokens=self.batch_tokens,
            )
            for index, values in zip(indices, group, strict=True):
                if not self.per_residue:
                    values = values.mean(axis=1, keepdims=True, dtype=np.float64)
                embeddings[index] = values.astype(np.float32, copy=False)
            if model.device == "cpu":
                give_back_freed_memory()
        columns: dict[str, pa.Array] = {
            "id": pa.array([record.id for record in records], pa.string()),
            "length": pa.array(lengths),
            "truncated": pa.array(lengths > self.longest_sequence),
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


def _read_stream(stream: pa.Buffer) -> pa.Table:
    return pa.ipc.open_stream(stream).read_all()
