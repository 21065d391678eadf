"""Embeddings as an Arrow table: its columns, and the rows of records."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from esm1b.inference.fasta_input import EncodedRecord
from esm1b.inference.long_sequences import LongSequences, greedy_groups, groups_by_length
from esm1b.inference.model import Model
from esm1b.inference.result_file import described_by

# Sixteen micro-batches of ESM-1b's vectors would be 0.7 GB for one layer and 23 GB for all of them,
# and there are a few copies of them while they are gathered and written.
_CHUNK_BATCHES: Final = 16
_CHUNK_BYTES: Final = 128 << 20


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """A model and the representations to keep of it.

    Attributes:
        model: model that computes them.
        layers: numbers of the layers, without repeats; 0 is the input of the stack.
        per_residue: whether to keep a vector for each residue instead of their mean.
        long_sequences: treatment of sequences that are longer than the model takes.
        batch_tokens: number of tokens that run through the network at once.
    """

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
        """Return the columns of the table, with `settings` as metadata.

        The column `truncated` (whether this sequence was cut) exists only where some may be cut.
        """
        values = pa.list_(pa.field("element", pa.float32(), nullable=False), self.model.shape.width)
        if self.per_residue:
            values = pa.list_(pa.field("element", values, nullable=False))
        columns = {
            "id": pa.string(),
            "length": pa.int32(),
            **({"truncated": pa.bool_()} if self.long_sequences == "truncate" else {}),
            **{f"layer_{layer}": values for layer in self.layers},
        }
        fields = [pa.field(name, kind, nullable=False) for name, kind in columns.items()]
        return pa.schema(fields, metadata=described_by(settings))

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
        for indices in groups_by_length(lengths.tolist(), _CHUNK_BYTES // self.vector_bytes):
            group = self.model.layer_representations(
                [records[index].residues for index in indices],
                layers=self.layers,
                long_sequences=self.long_sequences,
                batch_tokens=self.batch_tokens,
            )
            for index, values in zip(indices, group, strict=True):
                if not self.per_residue:
                    values = values.mean(axis=1, keepdims=True, dtype=np.float64)
                embeddings[index] = values.astype(np.float32, copy=False)
        columns: dict[str, pa.Array] = {
            "id": pa.array([record.id for record in records], pa.string()),
            "length": pa.array(lengths),
            "truncated": pa.array(lengths > self.model.longest_sequence),
        }
        ends = np.cumsum([0, *(embedding.shape[1] for embedding in embeddings)], dtype=np.int32)
        for place, layer in enumerate(self.layers):
            kind = schema.field(f"layer_{layer}").type
            flat = pa.array(np.concatenate([embedding[place] for embedding in embeddings]).ravel())
            if self.per_residue:
                vectors = pa.FixedSizeListArray.from_arrays(flat, type=kind.value_type)
                column = pa.ListArray.from_arrays(pa.array(ends), vectors, type=kind)
            else:
                column = pa.FixedSizeListArray.from_arrays(flat, type=kind)
            columns[f"layer_{layer}"] = column
        return pa.table([columns[name] for name in schema.names], schema=schema)
