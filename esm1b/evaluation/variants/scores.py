"""The scores of every model for the variants of an assay, and the table of all variants."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from esm1b.evaluation.bootstrap import Values
from esm1b.evaluation.variants.assays import Assay
from esm1b.evaluation.variants.baselines import blosum62, position_mean, residue_frequencies
from esm1b.evaluation.variants.epistasis import measured_epistasis, predicted_epistasis
from esm1b.inference.model import Model
from esm1b.scoring.variant_scores import Convention, score_variants
from esm1b.scoring.weighted_passes import Window

MODELS: Final = ("trained", "untrained", "blosum62", "residue_frequencies", "position_mean")


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredAssay:
    """An assay with the predictions of every model.

    Attributes:
        assay: measured effects.
        predictions: scores `[networks, variants]` by model, the trained one first; only untrained
            networks are several.
        doubles: places of some double mutants in the assay, perhaps of none, `[doubles]`.
        epistasis: measured epistasis of each, `[doubles]`.
        predicted_epistasis: predictions of it by model, `[networks, doubles]`.
    """

    assay: Assay
    predictions: Mapping[str, Values]
    doubles: NDArray[np.int64]
    epistasis: Values
    predicted_epistasis: Mapping[str, Values]


def score_assay(
    assay: Assay,
    networks: Mapping[str, Sequence[Model]],
    wild_types: Iterable[str],
    *,
    convention: Convention,
    window: Window,
    epistasis: int,
    batch_tokens: int | None,
    seed: int,
) -> ScoredAssay:
    """Return an assay with the scores of networks, baselines and compared columns.

    Args:
        assay: measured effects.
        networks: networks by model, the trained one first.
        wild_types: wild types of the data, for the residue frequencies.
        convention: definition of the scores.
        window: pieces of wild types longer than the networks take.
        epistasis: largest number of double mutants whose epistasis is measured.
        batch_tokens: number of tokens in one forward pass; by the device if None.
        seed: random seed of the double mutants.
    """
    wild_type, variants = assay.source.wild_type, assay.variants
    rows, measured = measured_epistasis(assay, most=epistasis, seed=seed)
    doubles = [variants[row] for row in rows]
    passes: dict[str, Any] = {"window": window, "batch_tokens": batch_tokens}
    score = partial(score_variants, convention=convention)
    predictions: dict[str, Values] = {}
    predicted: dict[str, Values] = {}
    for name, found in networks.items():
        scores = [score(each, wild_type, variants, **passes) for each in found]
        predictions[name] = np.array(scores)
        effects = [predicted_epistasis(each, wild_type, doubles, **passes) for each in found]
        predicted[name] = np.array(effects)
    baselines = {
        "blosum62": blosum62(variants),
        "residue_frequencies": residue_frequencies(variants, wild_types),
        "position_mean": position_mean(assay),
        **assay.compared,
    }
    return ScoredAssay(
        assay=assay,
        predictions=predictions | {name: values[None] for name, values in baselines.items()},
        doubles=rows,
        epistasis=measured,
        predicted_epistasis=predicted,
    )


def variant_table(scored: ScoredAssay) -> pa.Table:
    """Return a row per variant, with its positions counted from 1 in the wild type.

    Beside the measured effect there is `score_<model>` for every model (untrained networks are
    numbered), and beside `epistasis`, null where it is not measured, `epistasis_<model>`.
    """
    assay, count = scored.assay, len(scored.assay.variants)

    def sparse(values: Values) -> pa.Array:
        column = np.full(count, np.nan)
        column[scored.doubles] = values
        return pa.array(column, from_pandas=True)

    return pa.table(
        {
            "assay": pa.array([assay.source.name] * count, pa.string()),
            "variant": pa.array([variant.short_name() for variant in assay.variants], pa.string()),
            "mutations": pa.array(assay.mutations, pa.int32()),
            "measured": pa.array(assay.measured),
            "fit": pa.array([None] * count if assay.fit is None else assay.fit, pa.bool_()),
            **{f"score_{name}": pa.array(row) for name, row in _numbered(scored.predictions)},
            "epistasis": sparse(scored.epistasis),
            **{
                f"epistasis_{name}": sparse(row)
                for name, row in _numbered(scored.predicted_epistasis)
            },
        }
    )


def _numbered(predictions: Mapping[str, Values]) -> Iterator[tuple[str, Values]]:
    """Yield each row of predictions with its name, `untrained_1` and so on of several networks."""
    for name, rows in predictions.items():
        for number, row in enumerate(rows, start=1):
            yield f"{name}_{number}" if name == "untrained" else name, row
