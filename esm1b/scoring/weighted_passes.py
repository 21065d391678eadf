"""Sums of log-probabilities: which passes they need, also of proteins longer than the network."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from esm1b.alphabet import MASK
from esm1b.inference.cost import Cost
from esm1b.inference.long_sequences import greedy_groups
from esm1b.inference.model import BATCH_TOKENS, Model
from esm1b.scoring.masked_passes import Pass, log_probabilities

Window = Literal["optimal", "overlapping"]

# Enough batches in a chunk that its last one, which is smaller, costs little.
_CHUNK_BATCHES = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Terms:
    """Log-probabilities `[terms]` to ask for, and the sums that they go to.

    Attributes:
        positions: int64, place of the residue; `<cls>` is at 0.
        targets: int64, token whose log-probability is wanted there.
        rows: int64, number of the sum.
        weights: float64, factor of the log-probability in the sum.
    """

    positions: NDArray[np.int64]
    targets: NDArray[np.int64]
    rows: NDArray[np.int64]
    weights: NDArray[np.float64]

    def at(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Terms":
        """Return some of the terms."""
        return Terms(**{name: values[chosen] for name, values in vars(self).items()})


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightedPass(Pass):
    """A pass, and the terms that it answers; `places` are theirs in `positions`."""

    places: NDArray[np.int64]
    terms: Terms

    def add_to(self, sums: NDArray[np.float64], values: NDArray[np.float64]) -> None:
        """Add the log-probabilities of the terms, `[terms]`, to their rows of `sums`."""
        np.add.at(sums, self.terms.rows, self.terms.weights * values)


def weighted_passes(
    model: Model,
    framed: NDArray[np.uint8],
    hidden: Sequence[int],
    terms: Terms,
    window: Window,
) -> Iterator[WeightedPass]:
    """Yield the passes that answer `terms` about a sequence whose `hidden` places are masked.

    One, if the network takes the whole sequence. Otherwise, as in ProteinGym (`get_optimal_window`
    in `proteingym/utils/scoring_utils.py`, `baselines/esm/compute_fitness.py`), pieces of the
    tokens with `<cls>` and `<eos>`, so that a piece from the middle has neither: "optimal" takes
    each position from the piece in whose middle it lies, "overlapping" a weighted mean of the
    log-probabilities in all pieces of one tiling.

    Args:
        model: the model.
        framed: uint8 `[length]`, sequence with `<cls>` and `<eos>`.
        hidden: places to mask.
        terms: log-probabilities wanted.
        window: choice of pieces of a sequence that is too long.
    """
    tokens = framed.copy()
    tokens[np.asarray(hidden, dtype=np.int64)] = MASK
    width = model.longest_sequence + 1 + model.append_eos
    if len(tokens) <= width:
        yield _piece(tokens, 0, terms)
    elif window == "optimal":
        starts = np.clip(terms.positions - width // 2, 0, len(tokens) - width)
        for start in np.unique(starts).tolist():
            yield _piece(tokens[start : start + width], start, terms.at(starts == start))
    else:
        weights = edge_weights(width)
        tiling = _tiling(len(tokens), width)
        total = np.zeros(len(tokens))
        for start in tiling:
            total[start : start + width] += weights
        for start in tiling:
            inside = np.flatnonzero((terms.positions >= start) & (terms.positions < start + width))
            if len(inside):
                some = terms.at(inside)
                share = weights[some.positions - start] / total[some.positions]
                yield _piece(
                    tokens[start : start + width],
                    start,
                    Terms(**{**vars(some), "weights": some.weights * share}),
                )


def likelihood_passes(
    model: Model,
    framed: NDArray[np.uint8],
    rows: NDArray[np.int64],
    *,
    is_masked: bool,
    window: Window,
) -> Iterator[WeightedPass]:
    """Yield the passes that sum log p of each residue of `framed` into its row of `rows`.

    Each residue is hidden in a pass of its own, or none is.
    """
    length = len(rows)
    positions = np.arange(1, length + 1)
    terms = Terms(
        positions=positions,
        targets=framed[positions].astype(np.int64),
        rows=rows,
        weights=np.ones(length),
    )
    if not is_masked:
        yield from weighted_passes(model, framed, [], terms, window)
        return
    for place in range(length):
        yield from weighted_passes(model, framed, [place + 1], terms.at(np.array([place])), window)


def pass_cost(passes: Iterable[Pass]) -> Cost:
    """Return number and tokens of passes."""
    sizes = [len(each.tokens) for each in passes]
    return Cost(passes=len(sizes), tokens=sum(sizes))


def chunks(
    passes: Iterable[WeightedPass], model: Model, batch_tokens: int | None
) -> Iterator[list[WeightedPass]]:
    """Yield consecutive passes in chunks of about 8 batches.

    The end of a chunk depends on the passes of that chunk alone.
    """
    limit = _CHUNK_BATCHES * (batch_tokens or BATCH_TOKENS[model.device])
    return greedy_groups(passes, lambda each: (len(each.tokens),), (limit,))


def summed(
    model: Model, passes: Iterable[WeightedPass], rows: int, batch_tokens: int | None
) -> NDArray[np.float64]:
    """Return the sums `[rows]` of all terms of the passes."""
    sums = np.zeros(rows)
    for chunk in chunks(passes, model, batch_tokens):
        for each, found in zip(chunk, values(model, chunk, batch_tokens), strict=True):
            each.add_to(sums, found)
    return sums


def values(
    model: Model, passes: Sequence[WeightedPass], batch_tokens: int | None
) -> list[NDArray[np.float64]]:
    """Return the log-probability of each term, `[terms]` for each pass."""
    found = log_probabilities(model, passes, batch_tokens=batch_tokens)
    return [rows[each.places, each.terms.targets] for rows, each in zip(found, passes, strict=True)]


def _piece(tokens: NDArray[np.uint8], start: int, terms: Terms) -> WeightedPass:
    positions = terms.positions - start
    if len(positions) == 1 or (positions == positions[0]).all():  # np.unique is slow
        positions, places = positions[:1], np.zeros(len(positions), dtype=np.int64)
    else:
        positions, places = np.unique(positions, return_inverse=True)
    return WeightedPass(tokens=tokens, positions=positions, places=places, terms=terms)


def edge_weights(width: int) -> NDArray[np.float64]:
    """Return ProteinGym's weight of each place of a piece, 1 in its middle half.

    For 1,024 tokens its centres and slopes are 128 and 16. First and last token have weight 1, as
    there: they are `<cls>` and `<eos>` where the piece has these.
    """
    places = np.arange(width)
    quarter, centre, slope = width // 4, width / 8, width / 64
    weights = np.ones(width)
    left, right = places[1 : quarter + 1], places[width - 2 - quarter : width - 1]
    weights[left] = 1 / (1 + np.exp(-(left - centre) / slope))
    weights[right] = 1 / (1 + np.exp((right - (width - 2) + centre) / slope))
    return weights


def _tiling(length: int, width: int) -> list[int]:
    """Return where ProteinGym's pieces start: from both ends inwards until they meet."""
    stride = width // 2 - 1
    left, right = 0, length - width
    starts = [left, right]
    while left + width - 1 <= right:
        left, right = left + stride, right - stride
        starts += [left, right]
    if left + width - right < stride:  # they hardly overlap: one more in the middle
        starts.append(length // 2 - width // 2)
    return starts
