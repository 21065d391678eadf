"""Epistasis: what the effect of two mutations has beyond the sum of their effects.

Masked marginals add mutations up, so their epistasis is zero. Here a network predicts it as the
effect of the second mutation in the mutated sequence less that in the wild type, its position
hidden in both. For the distribution that a network approximates that is log p(double) -
log p(single) - log p(single) + log p(wild type) exactly, in either order; the two are averaged.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from esm1b.alphabet import encode
from esm1b.evaluation.bootstrap import Values
from esm1b.evaluation.structures.proteins import keyed_order
from esm1b.evaluation.variants.assays import Assay
from esm1b.inference.model import Model
from esm1b.scoring.mutations import Mutation, Variant
from esm1b.scoring.weighted_passes import (
    Terms,
    WeightedPass,
    Window,
    summed,
    weighted_passes,
)

_Effect = tuple[int, Mutation, float]
"""A mutation whose effect is added to a row, and its sign."""


def measured_epistasis(assay: Assay, *, most: int, seed: int) -> tuple[NDArray[np.int64], Values]:
    """Return double mutants in which both single mutants are measured too, and their epistasis.

    The first are their places in the assay, `[doubles]`; the second is the effect of each less
    those of its single mutants, `[doubles]`. At most `most` are drawn, by their names and the seed.
    """
    effects = {
        variant.mutations: effect
        for variant, effect in zip(assay.variants, assay.measured, strict=True)
    }
    doubles = [
        row
        for row, variant in enumerate(assay.variants)
        if len(variant.mutations) == 2 and all((each,) in effects for each in variant.mutations)
    ]
    drawn = sorted(doubles, key=lambda row: keyed_order(seed, assay.variants[row].short_name()))
    rows = np.array(sorted(drawn[:most]), dtype=np.int64)
    singles = [
        sum(effects[each,] for each in assay.variants[row].mutations) for row in rows.tolist()
    ]
    return rows, assay.measured[rows] - np.array(singles)


def predicted_epistasis(
    model: Model,
    wild_type: str,
    doubles: Sequence[Variant],
    *,
    window: Window,
    batch_tokens: int | None,
) -> Values:
    """Return a network's epistasis of double mutants, `[doubles]`; two masked passes for each."""
    passes = _passes(model, wild_type, doubles, window)
    return summed(model, passes, len(doubles), batch_tokens) / 2


def _passes(
    model: Model, wild_type: str, doubles: Sequence[Variant], window: Window
) -> Iterator[WeightedPass]:
    """Yield passes whose terms sum to twice the epistasis of each double mutant."""
    # By what is mutated and what is hidden.
    effects: dict[tuple[Mutation | None, int], list[_Effect]] = defaultdict(list)
    for row, double in enumerate(doubles):
        for first, second in (double.mutations, double.mutations[::-1]):
            effects[first, second.position].append((row, second, 1.0))
            effects[None, second.position].append((row, second, -1.0))
    for (background, position), asked in effects.items():
        mutations = () if background is None else (background,)
        sequence = Variant(name="", mutations=mutations).applied(wild_type)
        signs = np.array([sign for _, _, sign in asked])
        mutants = encode("".join(each.mutant for _, each, _ in asked)).astype(np.int64)
        framed = model.framed(encode(sequence))
        place = position + 1  # after <cls>
        terms = Terms(
            positions=np.full(2 * len(asked), place),
            targets=np.concatenate([mutants, np.full(len(asked), framed[place])]),
            rows=np.tile([row for row, _, _ in asked], 2),
            weights=np.concatenate([signs, -signs]),
        )
        yield from weighted_passes(model, framed, [place], terms, window)
