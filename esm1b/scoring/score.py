"""Likelihoods of the sequences of a FASTA file."""

import logging
import math
from collections.abc import Iterator, Sequence
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from esm1b.alphabet import X
from esm1b.errors import UserError
from esm1b.files import atomic_file
from esm1b.inference.cost import Cost
from esm1b.inference.fasta_input import CheckedFasta, checked_fasta
from esm1b.inference.long_sequences import greedy_groups
from esm1b.inference.model import BATCH_TOKENS, Device, Model, Precision, load_model
from esm1b.inference.result_file import (
    check_output_file,
    is_result_file,
    result_schema,
    write_results,
)
from esm1b.outputs import own_output
from esm1b.scoring.pass_values import Answers, PassJob
from esm1b.scoring.weighted_passes import WeightedPass, Window, likelihood_passes, pass_cost

_log = logging.getLogger(__name__)

_RESIDUES: Final = "residue_log_likelihoods"
# Rows are written this many, or this many residues, at a time.
_ROWS: Final = 1_000
_ROW_RESIDUES: Final = 1 << 20


def score(
    model_directory: Path,
    fasta: str,
    output: Path,
    *,
    single_pass: bool = False,
    per_residue: bool = False,
    window: Window = "optimal",
    batch_tokens: int | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    part_seconds: float = 60.0,
) -> None:
    """Write the likelihood of every record of `fasta` to a Parquet or CSV file.

    Rows are in the order of the FASTA file. Columns:

    - `id`, the first word of the header, and `length`, the residues of the record;
    - `pseudo_log_likelihood`: the sum over residues of log p(residue) in nats, each alone hidden by
      `<mask>` in a pass of its own (Salazar et al. 2020, eq. 1), p over all 33 tokens;
    - `pseudo_perplexity`: exp(-pseudo_log_likelihood / length);
    - with `single_pass` instead `single_pass_log_likelihood` and `single_pass_perplexity`, from
      one pass in which nothing is hidden: the network sees each residue that it predicts;
    - with `per_residue` also `residue_log_likelihoods`, float64 `[length]` (Parquet only).

    fair-esm's `compute_pppl` (`examples/variant-prediction/predict.py`) leaves out the last two
    residues and looks up each one a place off, so its figures differ from this definition.

    Longer proteins than the network takes are read in pieces, see `weighted_passes`. The metadata
    of a Parquet file holds everything that decided the values, as JSON under `esm1b`. Memory is
    bounded. Finished work goes to `<output>.parts/`, from which the same call resumes after a
    kill; the result is the same, byte for byte. `fasta` may be `-`, standard input.

    Raises:
        UserError: the model, a record, or the output is invalid.
        Stopped: a signal asked to stop; everything finished is saved.
    """
    prefix = "single_pass" if single_pass else "pseudo"
    columns = {
        "id": pa.string(),
        "length": pa.int32(),
        f"{prefix}_log_likelihood": pa.float64(),
        f"{prefix}_perplexity": pa.float64(),
    }
    is_csv = output.suffix == ".csv"
    if output.suffix not in (".parquet", ".csv"):
        raise UserError(f"{output}: expected a name that ends in .parquet or .csv")
    if per_residue:
        if is_csv:
            raise UserError(f"{output}: values per residue need Parquet; expected .parquet")
        columns[_RESIDUES] = pa.list_(pa.field("element", pa.float64(), nullable=False))
    check_output_file(output, fasta, "score", _is_our_csv if is_csv else is_result_file)
    with own_output(output):
        model = load_model(model_directory, device=device, precision=precision)
        place = output.resolve()
        with checked_fasta(
            fasta,
            longest=model.longest_sequence,
            long_sequences="windows",
            output=output,
        ) as records:
            passes = partial(_passes, model, is_masked=not single_pass, window=window)
            # Only the length decides how many passes a record takes.
            cost_of = cache(lambda length: pass_cost(passes(np.full(length, X, dtype=np.uint8))))
            costs = [cost_of(len(record.residues)) for record in records.records()]
            batch_tokens = batch_tokens or BATCH_TOKENS[model.device]
            settings = {
                **model.settings(),
                "input": records.identity,
                "masked": not single_pass,
                "window": window,
                "batch_tokens": batch_tokens,
                "precision": model.precision,
            }
            schema = result_schema(columns, settings)
            job = PassJob(
                model=model,
                passes=lambda: (
                    each for record in records.records() for each in passes(record.residues)
                ),
                cost=Cost(
                    passes=sum(cost.passes for cost in costs),
                    tokens=sum(cost.tokens for cost in costs),
                ),
                source=records.name,
                batch_tokens=batch_tokens,
            )
            job.compute(
                output,
                settings,
                "scores",
                lambda answers: _write(
                    place, schema, _rows(records, costs, answers, schema), records.count
                ),
                part_seconds=part_seconds,
            )
    _log.info("%s: likelihoods of %d sequences", output, records.count)


def _passes(
    model: Model, residues: NDArray[np.uint8], *, is_masked: bool, window: Window
) -> Iterator[WeightedPass]:
    """Yield the passes for one record; row i of their terms is residue i."""
    rows = np.arange(len(residues))
    return likelihood_passes(
        model, model.framed(residues), rows, is_masked=is_masked, window=window
    )


def _rows(
    records: CheckedFasta,
    costs: Sequence[Cost],
    answers: Answers,
    schema: pa.Schema,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the output, in batches."""

    def scored() -> Iterator[tuple[str, NDArray[np.float64]]]:
        for record, cost in zip(records.records(), costs, strict=True):
            found = np.zeros(len(record.residues))
            for each, values in islice(answers, cost.passes):
                each.add_to(found, values)
            yield record.id, found

    for group in greedy_groups(scored(), lambda row: (1, len(row[1])), (_ROWS, _ROW_RESIDUES)):
        lengths = [len(found) for _, found in group]
        sums = [float(found.sum()) for _, found in group]
        columns: dict[str, Any] = {
            "id": [name for name, _ in group],
            "length": lengths,
            schema.names[2]: sums,
            schema.names[3]: [
                math.exp(-total / length) for total, length in zip(sums, lengths, strict=True)
            ],
            _RESIDUES: [found for _, found in group],
        }
        yield pa.record_batch([columns[name] for name in schema.names], schema=schema)


def _write(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch], count: int) -> None:
    with atomic_file(path) as temporary:
        if path.suffix == ".csv":
            with pyarrow.csv.CSVWriter(temporary, schema) as file:
                for batch in batches:
                    file.write_batch(batch)
        else:
            write_results(temporary, schema, ((each, each.nbytes) for each in batches), count=count)


def _is_our_csv(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline().startswith(b'"id","length",')
