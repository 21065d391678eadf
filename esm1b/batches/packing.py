"""Sharing the sequences of an update out over processes and rounds, evenly."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def micro_batch_capacity(micro_batch_tokens: int, maximum_tokens: int) -> int:
    """Return the most tokens of a micro-batch: the mean plus one sequence of `maximum_tokens`.

    With that there is always room: n micro-batches share out fewer than
    n * micro_batch_tokens + maximum_tokens tokens (an update exceeds B by less than a sequence); if
    none had room for a sequence of t tokens, they would hold more than
    n * (micro_batch_tokens + maximum_tokens - t) without it, and so at least that many with it.
    """
    return micro_batch_tokens + maximum_tokens


def share_out(
    tokens: NDArray[np.int64],
    *,
    micro_batch_tokens: int,
    maximum_tokens: int,
    width: int,
    processes: int = 1,
    mean_tokens: int | None = None,
) -> list[NDArray[np.int64]]:
    """Return the indices of each micro-batch's sequences, ascending, balanced by arithmetic.

    Process r has the micro-batches r, r + processes, r + 2 processes and so on: every process has
    the same number, some of them empty where there are few sequences.

    A layer does 24 W^2 operations a token in its matrices and 4 W a pair of tokens in attention
    (forward, multiply and add counted apart), so a sequence of n tokens weighs n (6 W + n).

    Args:
        tokens: int64 `[sequences]`, tokens of each sequence.
        micro_batch_tokens: mean tokens of a micro-batch.
        maximum_tokens: most tokens of any sequence.
        width: W of the network.
        processes: number of processes.
        mean_tokens: B of an update, so that all updates have the same number of micro-batches,
            though each differs from B by up to a sequence; default: the tokens of these sequences.
    """
    total = int(tokens.sum()) if mean_tokens is None else mean_tokens
    rounds = max(1, -(-total // (micro_batch_tokens * processes)))
    weights = tokens * (6 * width + tokens)
    groups = balance(
        weights.tolist(),
        rounds * processes,
        sizes=tokens.tolist(),
        capacity=micro_batch_capacity(micro_batch_tokens, maximum_tokens),
    )
    return [np.array(sorted(group), dtype=np.int64) for group in groups]


def balance(
    weights: Sequence[int],
    groups: int,
    *,
    sizes: Sequence[int] | None = None,
    capacity: int | None = None,
) -> list[list[int]]:
    """Return the items of each group, by number, so that all groups weigh about the same.

    The heaviest item goes first, each to the lightest group that has room for it (longest
    processing time first). Of equal items, and of equal groups, the first one goes first. Some
    groups are empty when there are fewer items. Sizes, by default the weights, add up to at most
    `capacity` in a group; None is no limit.

    Raises:
        ValueError: an item found no room.
    """
    sizes = weights if sizes is None else sizes
    lightest = [(0, group) for group in range(groups)]  # a heap of (weight, group)
    room = [sum(sizes) if capacity is None else capacity] * groups
    members: list[list[int]] = [[] for _ in range(groups)]
    for item in sorted(range(len(weights)), key=lambda item: -weights[item]):
        full = []
        while lightest and room[lightest[0][1]] < sizes[item]:
            full.append(heapq.heappop(lightest))
        if not lightest:
            raise ValueError(
                f"{sum(sizes)} tokens in {groups} micro-batches; expected them to fit {capacity} "
                "each"
            )
        weight, group = lightest[0]
        members[group].append(item)
        room[group] -= sizes[item]
        heapq.heapreplace(lightest, (weight + weights[item], group))
        for entry in full:
            heapq.heappush(lightest, entry)
    return members


@dataclass(frozen=True, kw_only=True)
class Filling:
    """The fixed size of a compiled network's micro-batches: arguments of `PackedTokens.filled`."""

    capacity: int
    sequences: int
    longest: int

    @classmethod
    def of(cls, *, micro_batch_tokens: int, maximum_tokens: int) -> "Filling":
        """Return the size that holds every micro-batch of `micro_batch_tokens` on average.

        The number of sequences is rounded up to a multiple of one per 512 tokens. Flash attention
        starts thread blocks for empty sequences too, so a bound that suits every corpus would cost
        more time than the two or three compilations that the multiples of one corpus need.
        """
        capacity = -(-micro_batch_capacity(micro_batch_tokens, maximum_tokens) // 128) * 128
        return cls(capacity=capacity, sequences=max(16, capacity // 512), longest=maximum_tokens)
