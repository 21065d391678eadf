"""Log-probabilities from many passes, by a job that says what it takes and may be killed."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from esm1b.inference.long_sequences import greedy_groups
from esm1b.inference.model import Model
from esm1b.inference.result_file import ResultParts, result_schema
from esm1b.inference.resumable import compute_parts
from esm1b.outputs import OutputKind
from esm1b.scoring.masked_passes import log_probabilities
from esm1b.scoring.weighted_passes import WeightedPass, chunks, values

_log = logging.getLogger(__name__)

Answers = Iterator[tuple[WeightedPass, NDArray[np.float64]]]
"""Passes, each with the log-probabilities `[terms]` of its terms."""

_VALUES = pa.list_(pa.field("element", pa.float64(), nullable=False))
# Fewer batches than this are soon done, and the estimate takes one.
_LEAST_TO_ESTIMATE = 10


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Number of passes, and of tokens in all of them."""

    passes: int
    tokens: int

    @classmethod
    def of(cls, passes: Iterable[WeightedPass]) -> "Cost":
        """Count passes."""
        number = tokens = 0
        for each in passes:
            number += 1
            tokens += len(each.tokens)
        return cls(passes=number, tokens=tokens)


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
        self._announce(parts.rows)
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

    def _announce(self, done: int) -> None:
        """Log the size of the work and, from the time of one batch, how long the rest takes."""
        limit = self.batch_tokens
        time = ""
        if self.cost.tokens >= _LEAST_TO_ESTIMATE * limit:
            batch = next(greedy_groups(self.passes(), lambda each: (len(each.tokens),), (limit,)))
            for passes in (batch[:1], batch):  # the first call has other work to do
                began = perf_counter()
                log_probabilities(self.model, passes, batch_tokens=limit)
            rate = sum(len(each.tokens) for each in batch) / (perf_counter() - began)
            seconds = self.cost.tokens / rate * (1 - done / self.cost.passes)
            time = f"; about {tqdm.format_interval(seconds)} on this {self.model.device}"
        _log.info(
            "%s: %s passes of the network, %s tokens%s",
            self.source,
            f"{self.cost.passes:,}",
            f"{self.cost.tokens:,}",
            time,
        )


def _rows(parts: ResultParts) -> Iterator[NDArray[np.float64]]:
    for chunk in parts.chunks():
        column = chunk.column(0)
        flat, ends = column.flatten().to_numpy(), column.offsets.to_numpy()
        yield from np.split(flat, ends[1:-1] - ends[0])
