"""Effects of the mutations of one protein: a table, and a heat map of single substitutions."""

import logging
from functools import partial
from pathlib import Path

import numpy as np

from esm1b.errors import UserError
from esm1b.inference.model import BATCH_TOKENS, Device, Precision, load_model
from esm1b.outputs import own_output, replace_directory
from esm1b.scoring.heat_map import draw_heat_map
from esm1b.scoring.pass_values import Answers, PassJob
from esm1b.scoring.variant_scores import Convention, variant_passes
from esm1b.scoring.variant_table import VariantTable, read_variant_table
from esm1b.scoring.weighted_passes import Window, pass_cost
from esm1b.scoring.wild_type import read_wild_type

_log = logging.getLogger(__name__)


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
    precision: Precision = "auto",
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
    with own_output(output, "variants", inputs):
        model = load_model(model_directory, device=device, precision=precision)
        name, sequence = read_wild_type(wild_type)
        table = (
            VariantTable.of_all_substitutions(sequence, offset)
            if mutants is None
            else read_variant_table(mutants, column, sequence, offset)
        )
        variants = table.variants
        if not variants:
            raise UserError(f"{mutants or wild_type}: no variant can be scored")
        passes = partial(
            variant_passes, model, sequence, variants, convention=convention, window=window
        )
        batch_tokens = batch_tokens or BATCH_TOKENS[model.device]
        settings = {
            **model.settings(),
            "wild_type": sequence,
            "variants_sha256": table.digest(),
            "offset": offset,
            "convention": convention,
            "window": window,
            "batch_tokens": batch_tokens,
            "precision": model.precision,
        }

        def finish(answers: Answers) -> None:
            sums = np.zeros(len(variants) + 1)
            for each, values in answers:
                each.add_to(sums, values)
            scores = sums[1:] - sums[0]
            title = f"{name}: {convention} of {model.directory.name}"
            with replace_directory(output, "variants") as directory:
                table.write(directory, scores, settings)
                picture = directory / "heat_map.svg"
                draw_heat_map(picture, sequence, variants, scores, title=title, offset=offset)

        PassJob(
            model=model,
            passes=passes,
            cost=pass_cost(passes()),
            source=name,
            batch_tokens=batch_tokens,
        ).compute(
            output,
            settings,
            "variants",
            finish,
            part_seconds=part_seconds,
        )
    _log.info("%s: scores of %d variants of %s", output, len(variants), name)
