"""Effects of the mutations of one protein: a table, and a heat map of single substitutions."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from esm1b.alphabet import decode
from esm1b.errors import UserError
from esm1b.files import new_token, temporary_path
from esm1b.inference.fasta_input import checked_fasta
from esm1b.inference.model import Device, Model, Precision, load_model
from esm1b.inference.result_file import result_schema
from esm1b.outputs import own_directory, replace_directory
from esm1b.scoring.heat_map import draw_heat_map
from esm1b.scoring.mutations import (
    Variant,
    VariantError,
    all_substitutions,
    parse_variant,
)
from esm1b.scoring.pass_values import Cost, PassJob
from esm1b.scoring.variant_scores import Convention, variant_passes
from esm1b.scoring.weighted_passes import WeightedPass, Window
from esm1b.table_file import read_table

_log = logging.getLogger(__name__)

VARIANT_COLUMNS: Final = (
    *("mutant", "mutation", "mutations", "variant"),
    *("hgvs_pro", "hgvs", "mutated_sequence"),
)
"""Columns in which variants are looked for, the first that a table has."""

# Rows that are in most tables of experiments; the other reasons are mistakes.
_UNSCORED: Final = {"synonymous", "stop codon", "insertion or deletion"}


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A row of the table: what it states, and the variant, or why there is none."""

    text: str
    variant: Variant | None
    problem: str | None = None


def score_variant_table(
    model_directory: Path,
    wild_type: str,
    output: Path,
    *,
    mutants: Path | None = None,
    all_single: bool = False,
    column: str | None = None,
    offset: int = 1,
    convention: Convention = "masked-marginals",
    window: Window = "optimal",
    batch_tokens: int | None = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    part_seconds: float = 60.0,
) -> None:
    """Score the variants of a table, or all single substitutions of a protein.

    Writes `variants.parquet`, `variants.csv` and, of single substitutions, `heat_map.svg`. Rows
    are those of the table, in its order, with the columns

    - `variant`, as the table states it, and `mutations`, as in `A12G:L30P`;
    - `mutation_count`, the number of mutations;
    - `score`, the higher, the fitter, see `score_variants`;
    - `problem`: synonymous variants, stop codons, insertions and deletions have no score but
      a reason here, and are counted in the log.

    Finished work goes to `<output>.parts/`, from which the same call resumes after a kill; the
    result is the same, byte for byte.

    Args:
        model_directory: the model.
        wild_type: FASTA file of one record, or `-` for standard input.
        output: directory to write.
        mutants: table of variants (CSV, TSV, Parquet or Arrow, plain or gzip).
        all_single: True for all single substitutions, in place of a table.
        column: column of the variants; by default the first of `VARIANT_COLUMNS`.
        offset: number of the first residue of the wild type in the names of mutations.
        convention: definition of the score.
        window: pieces of a wild type longer than the model takes, see `weighted_passes`.
        batch_tokens: tokens of a forward pass; by the device if None.
        device: device of the network.
        precision: precision of the network.
        part_seconds: seconds of work that a kill may cost.

    Raises:
        UserError: an input or the output is invalid, a variant does not fit the wild type, or no
            row has a score; the message names file and row.
        Stopped: a signal asked to stop; everything finished is saved.
    """
    if all_single == (mutants is not None):
        raise UserError("MUTANTS: expected a table of variants, or --all in its place")
    inputs = [model_directory, Path(wild_type), *([] if mutants is None else [mutants])]
    with own_directory(output, "variants", inputs):
        model = load_model(model_directory, device=device, precision=precision)
        place = output.resolve()
        name, sequence = _read_wild_type(
            wild_type, model, temporary_path(place, new_token(), "input")
        )
        if mutants is None:
            singles = all_substitutions(sequence, offset=offset)
            rows = [_Row(text=each.name, variant=each) for each in singles]
        else:
            rows = _read_rows(mutants, column, sequence, offset)
        variants = [row.variant for row in rows if row.variant is not None]
        if not variants:
            raise UserError(f"{mutants or wild_type}: no variant can be scored")
        passes = partial(
            variant_passes, model, sequence, variants, convention=convention, window=window
        )
        settings = {
            **model.settings(),
            "wild_type": sequence,
            "variants": [row.text for row in rows],
            "offset": offset,
            "convention": convention,
            "window": window,
            "precision": precision,
        }

        def finish(answers: Iterator[tuple[WeightedPass, NDArray[np.float64]]]) -> None:
            sums = np.zeros(len(variants) + 1)
            for each, values in answers:
                each.add_to(sums, values)
            scores = sums[1:] - sums[0]
            described = {key: value for key, value in settings.items() if key != "variants"}
            with replace_directory(output, "variants") as directory:
                _write(directory, rows, scores, offset, described)
                draw_heat_map(
                    directory / "heat_map.svg",
                    sequence,
                    variants,
                    scores,
                    title=f"{name}: {convention} of {model.directory.name}",
                    offset=offset,
                )

        job = PassJob(
            model=model,
            passes=passes,
            cost=Cost.of(passes()),
            source=name,
            batch_tokens=batch_tokens,
        )
        job.compute(
            place.with_name(f"{place.name}.parts"),
            settings,
            "variants",
            finish,
            part_seconds=part_seconds,
        )
    _log.info("%s: scores of %d variants of %s", output, len(variants), name)


def _read_wild_type(fasta: str, model: Model, spool: Path) -> tuple[str, str]:
    """Return id and sequence of the only record of a FASTA file."""
    with checked_fasta(
        fasta, longest=model.longest_sequence, long_sequences="windows", spool=spool
    ) as records:
        if records.count != 1:
            raise UserError(f"{records.name}: {records.count} records; expected one, the wild type")
        (record,) = records.records()
        return record.id, decode(record.residues)


def _read_rows(path: Path, column: str | None, wild_type: str, offset: int) -> list[_Row]:
    known = VARIANT_COLUMNS if column is None else [" ".join(column.split()).lower()]
    names, cells = read_table(path, known)
    chosen = next((name for name in known if name in names), None)
    if chosen is None:
        raise UserError(
            f"{path}: has the columns {', '.join(names) or 'none'}; expected one of variants: "
            f"{', '.join(known)}{'' if column else ', or its name as --column'}"
        )
    texts = ["" if row[chosen] is None else str(row[chosen]) for row in cells]
    rows = []
    reasons: Counter[str] = Counter()
    for number, text in enumerate(texts, start=1):
        try:
            variant = parse_variant(text, wild_type, offset=offset, others=texts)
            rows.append(_Row(text=text, variant=variant))
        except VariantError as error:
            if error.reason not in _UNSCORED:
                raise UserError(f"{path}: row {number}: {error}") from error
            reasons[error.reason] += 1
            rows.append(_Row(text=text, variant=None, problem=error.reason))
    if reasons:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        _log.warning(
            "%s: %d of %d rows have no score: %s", path, reasons.total(), len(texts), counts
        )
    return rows


def _write(
    directory: Path,
    rows: Sequence[_Row],
    scores: NDArray[np.float64],
    offset: int,
    settings: dict[str, Any],
) -> None:
    schema = result_schema({"variant": pa.string()}, settings)
    for name, kind in (
        ("mutations", pa.string()),
        ("mutation_count", pa.int32()),
        ("score", pa.float64()),
        ("problem", pa.string()),
    ):
        schema = schema.append(pa.field(name, kind))
    remaining = iter(scores.tolist())
    variants = [row.variant for row in rows]
    columns = {
        "variant": [row.text for row in rows],
        "mutations": [each and each.short_name(offset) for each in variants],
        "mutation_count": [each and len(each.mutations) for each in variants],
        "score": [each and next(remaining) for each in variants],
        "problem": [row.problem for row in rows],
    }
    table = pa.table(columns, schema=schema)
    pq.write_table(table, directory / "variants.parquet", compression="zstd")
    pyarrow.csv.write_csv(table, directory / "variants.csv")
