"""Log-probabilities from many passes, by a job that says what it takes and may be killed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from esm1b.inference.cost import Cost
from esm1b.inference.long_sequences import greedy_groups
from esm1b.inference.model import Model
from esm1b.inference.result_file import ResultParts, result_schema
from esm1b.inference.resumable import compute_parts
from esm1b.outputs import OutputKind
from esm1b.scoring.masked_passes import log_probabilities
from esm1b.scoring.weighted_passes import WeightedPass, chunks, values

Answers = Iterator[tuple[WeightedPass, NDArray[np.float64]]]
"""Passes, each with the log-probabilities `[terms]` of its terms."""

_VALUES = pa.list_(pa.field("element", pa.float64(), nullable=False))


@dataclass(frozen=True, kw_only=True)
class PassJob:
    """Passes, all in the same order at each call, and how to run them.

    Attributes:
        model: the model.
        passes: function that returns all passes.
        cost: number of passes and tokens.
        source: name of the input for messages.
        batch_tokens: tokens of a forward pass.
    """

    model: Model
    passes: Callable[[], Iterator[WeightedPass]]
    cost: Cost
    source: str
    batch_tokens: int

    def compute(
        self,
        output: Path,
        settings: Mapping[str, Any],
        kind: OutputKind,
        finish: Callable[[Answers], None],
        *,
        part_seconds: float,
    ) -> None:
        """Compute all values and call `finish` with each pass and the values `[terms]` of it.

        Values are kept in `<output>.parts/`, from which a job with the same `settings` resumes.

        Raises:
            UserError: the input changed.
            Stopped: a signal asked to stop; everything finished is saved.
        """
        schema = result_schema({"values": _VALUES}, settings)
        parts = ResultParts(output, schema, kind)
        self._tell_cost(parts.rows)
        compute_parts(
            parts,
            lambda start: self._tables(start, schema),
            lambda: finish(zip(self.passes(), _rows(parts), strict=True)),
            count=self.cost.passes,
            source=self.source,
            task=kind,
            unit="passes",
            part_seconds=part_seconds,
        )

    def _tables(self, start: int, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield the values of all passes from the number `start` on, a chunk at a time."""
        remaining = islice(self.passes(), start, None)
        for chunk in chunks(remaining, self.model, self.batch_tokens):
            found = values(self.model, chunk, self.batch_tokens)
            ends = np.cumsum([0, *map(len, found)], dtype=np.int32)
            column = pa.ListArray.from_arrays(
                pa.array(ends), pa.array(np.concatenate(found)), type=_VALUES
            )
            yield pa.table([column], schema=schema)

    def _tell_cost(self, done: int) -> None:
        """Log what the passes take, of which the first `done` are finished."""
        limit = self.batch_tokens
        groups = greedy_groups(self.passes(), lambda each: (len(each.tokens),), (limit,))
        batch = next(groups, [])
        tokens = sum(len(each.tokens) for each in batch)
        run = partial(log_probabilities, self.model, batch_tokens=limit)
        self.cost.tell(self.source, batch, tokens, run, done=done)


def _rows(parts: ResultParts) -> Iterator[NDArray[np.float64]]:
    for chunk in parts.chunks():
        column = chunk.column(0)
        flat, ends = column.flatten().to_numpy(), column.offsets.to_numpy()
        yield from np.split(flat, ends[1:-1] - ends[0])
