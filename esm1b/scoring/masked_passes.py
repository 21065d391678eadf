"""Passes of a network over sequences in which some residues are hidden, packed end to end."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esm1b.inference.long_sequences import groups_by_length
from esm1b.inference.model import BATCH_TOKENS, Model


@dataclass(frozen=True, kw_only=True, eq=False)
class Pass:
    """A sequence as the network reads it, and where predictions are wanted.

    Attributes:
        tokens: uint8 `[length]`, with `<cls>` and `<eos>` and with `<mask>` where it is hidden.
        positions: int64 `[positions]`, places in `tokens`.
    """

    tokens: NDArray[np.uint8]
    positions: NDArray[np.int64]


def log_probabilities(
    model: Model, passes: Sequence[Pass], *, batch_tokens: int | None = None
) -> list[NDArray[np.float64]]:
    """Return log-probabilities `[positions, 33]` over all tokens for each pass, in its order.

    Passes of similar length go through the network together, about `batch_tokens` tokens at once
    (`BATCH_TOKENS` of the device by default). The head computes logits at `positions` alone. The
    softmax is over all 33 tokens, as in Meier et al. 2021, in float64.
    """
    results: list[NDArray[np.float64]] = [np.empty(0)] * len(passes)
    lengths = [len(each.tokens) for each in passes]
    for indices in groups_by_length(lengths, batch_tokens or BATCH_TOKENS[model.device]):
        group = [passes[index] for index in indices]
        starts = np.cumsum([0, *(len(each.tokens) for each in group)])
        found = model.log_probabilities(
            np.concatenate([each.tokens for each in group]).astype(np.int64),
            np.diff(starts),
            np.concatenate([each.positions + at for each, at in zip(group, starts, strict=False)]),
        )
        ends = np.cumsum([len(each.positions) for each in group])[:-1]
        for index, part in zip(indices, np.split(found, ends), strict=True):
            results[index] = part
    return results
