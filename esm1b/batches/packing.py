"""Sharing the sequences of an update out over processes and rounds, evenly."""

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["rounds_needed", "share_out"]


def rounds_needed(total_tokens: int, *, micro_batch_tokens: int, processes: int) -> int:
    """Return how many rounds of `processes` micro-batches hold `total_tokens`."""
    return max(1, -(-total_tokens // (micro_batch_tokens * processes)))


def share_out(
    tokens: NDArray[np.int64], *, micro_batches: int, width: int
) -> Sequence[NDArray[np.int64]]:
    """Return the sequence indices of each micro-batch, ascending, balanced by arithmetic.

    A layer does 24 W^2 operations a token in its matrices and 4 W a pair of tokens in attention
    (forward, multiply and add counted apart), so a sequence of n tokens weighs n (6 W + n). The
    heaviest sequence goes first, each to the lightest micro-batch (longest processing time first).

    Args:
        tokens: int64 `[sequences]`, tokens of each sequence.
        micro_batches: how many to make; some are empty when there are fewer sequences.
        width: W of the network.
    """
    weights = tokens * (6 * width + tokens)
    loads = [(0, index) for index in range(micro_batches)]
    members: list[list[int]] = [[] for _ in range(micro_batches)]
    for sequence in np.argsort(-weights, kind="stable").tolist():
        load, index = loads[0]
        members[index].append(sequence)
        heapq.heapreplace(loads, (load + int(weights[sequence]), index))
    return [np.array(sorted(indices), dtype=np.int64) for indices in members]
