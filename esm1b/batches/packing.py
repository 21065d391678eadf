"""Sharing the sequences of an update out over processes and rounds, evenly."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def rounds_needed(total_tokens: int, *, micro_batch_tokens: int, processes: int) -> int:
    """Return how many rounds of `processes` micro-batches hold `total_tokens`.

    For updates, ask with the mean B: each then takes as many rounds, exactly
    B / (processes * micro_batch_tokens) where that divides, though it has B tokens only within one
    sequence.
    """
    return max(1, -(-total_tokens // (micro_batch_tokens * processes)))


def micro_batch_capacity(micro_batch_tokens: int, maximum_tokens: int) -> int:
    """Return how many tokens no micro-batch exceeds.

    One sequence more than `micro_batch_tokens`. With that there is always room: n micro-batches
    share out fewer than n * micro_batch_tokens + maximum_tokens tokens (an update exceeds B by less
    than a sequence); if none had room for a sequence of t tokens, they would hold more than
    n * (micro_batch_tokens + maximum_tokens - t) without it, and so at least that many with it.

    Args:
        micro_batch_tokens: mean tokens of a micro-batch.
        maximum_tokens: of a sequence, special tokens included.
    """
    return micro_batch_tokens + maximum_tokens


def share_out(
    tokens: NDArray[np.int64], *, micro_batches: int, width: int, capacity: int | None = None
) -> Sequence[NDArray[np.int64]]:
    """Return the sequence indices of each micro-batch, ascending, balanced by arithmetic.

    A layer does 24 W^2 operations a token in its matrices and 4 W a pair of tokens in attention
    (forward, multiply and add counted apart), so a sequence of n tokens weighs n (6 W + n). The
    heaviest sequence goes first, each to the lightest micro-batch that has room for it (longest
    processing time first).

    Args:
        tokens: int64 `[sequences]`, tokens of each sequence.
        micro_batches: how many to make; some are empty when there are fewer sequences.
        width: W of the network.
        capacity: tokens that no micro-batch exceeds; default: any number.

    Raises:
        ValueError: a sequence found no room.
    """
    weights = tokens * (6 * width + tokens)
    sizes, works = tokens.tolist(), weights.tolist()
    loads = [(0, index) for index in range(micro_batches)]
    room = [sum(sizes) if capacity is None else capacity] * micro_batches
    members: list[list[int]] = [[] for _ in range(micro_batches)]
    for sequence in np.argsort(-weights, kind="stable").tolist():
        full = []
        while loads and room[loads[0][1]] < sizes[sequence]:
            full.append(heapq.heappop(loads))
        if not loads:
            raise ValueError(
                f"{sum(sizes)} tokens in {micro_batches} micro-batches; expected them to fit "
                f"{capacity} each"
            )
        load, index = loads[0]
        members[index].append(sequence)
        room[index] -= sizes[sequence]
        heapq.heapreplace(loads, (load + works[sequence], index))
        for entry in full:
            heapq.heappush(loads, entry)
    return [np.array(sorted(indices), dtype=np.int64) for indices in members]


@dataclass(frozen=True, kw_only=True)
class Filling:
    """The fixed size of the micro-batches of a compiled network; see `PackedTokens.filled`.

    Attributes:
        capacity: tokens.
        sequences: those of the filler included.
        longest: tokens of the longest sequence that may come.
    """

    capacity: int
    sequences: int
    longest: int

    @classmethod
    def of(cls, *, micro_batch_tokens: int, maximum_tokens: int) -> "Filling":
        """Return the size that holds every micro-batch of `micro_batch_tokens`, about.

        The number of sequences is rounded up to a multiple of one per 512 tokens. Flash attention
        starts thread blocks for empty sequences too, so a bound that suits every corpus would cost
        more time than the two or three compilations that the multiples of one corpus need.
        """
        capacity = -(-micro_batch_capacity(micro_batch_tokens, maximum_tokens) // 128) * 128
        return cls(capacity=capacity, sequences=max(16, capacity // 512), longest=maximum_tokens)
