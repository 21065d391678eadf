"""Sequences as a network takes them: windows of long ones, groups of short ones."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import add, gt
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from esm1b.errors import UserError

T = TypeVar("T")
LongSequences = Literal["error", "windows", "truncate"]


@dataclass(frozen=True, kw_only=True)
class Window:
    """Residues `start` to `stop` - 1 go through the network; `first` to `last` - 1 are kept."""

    start: int
    stop: int
    first: int
    last: int

    def depths(self, length: int) -> NDArray[np.int32]:
        """Return how far, in residues, each pair lies from an end of the window, at least 1.

        The ends of the sequence, which has `length` residues, do not count as ends.
        """
        places = np.arange(self.start, self.stop)
        left = np.full_like(places, length) if self.start == 0 else places - self.start + 1
        right = np.full_like(places, length) if self.stop == length else self.stop - places
        depths = np.minimum(left, right).astype(np.int32)
        return np.minimum(depths[:, None], depths)


def windows_of(
    length: int, longest: int, long_sequences: LongSequences, *, name: str = "the sequence"
) -> Sequence[Window]:
    """Return the windows through which a sequence of `length` residues is seen.

    There are as few windows as let each overlap the next by half or more, spread evenly. A residue
    is kept from the window in which it lies closest to the middle, so at least a quarter of a
    window stands on both sides of it, save at the ends of the sequence.

    Raises:
        UserError: the sequence is too long and `long_sequences` is "error"; the message has `name`.
    """
    if length <= longest:
        return [Window(start=0, stop=length, first=0, last=length)]
    if long_sequences == "error":
        raise UserError(
            f"{name}: {length:,} residues; expected at most {longest:,}, or a choice of "
            "long sequences: windows or truncate"
        )
    if long_sequences == "truncate":
        return [Window(start=0, stop=longest, first=0, last=longest)]
    stride = max(longest // 2, 1)
    steps = -(-(length - longest) // stride)
    starts = [step * (length - longest) // steps for step in range(steps + 1)]
    # Half way between the middles of neighbours: there the two windows see equally far.
    borders = [(before + after + longest) // 2 for before, after in pairwise(starts)]
    return [
        Window(start=start, stop=start + longest, first=first, last=last)
        for start, first, last in zip(starts, [0, *borders], [*borders, length], strict=True)
    ]


def groups_by_length(lengths: Sequence[int], residues: int) -> Iterator[list[int]]:
    """Yield indices, by ascending length, in groups of at most `residues` or of one sequence."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return greedy_groups(order, lambda index: (lengths[index],), (residues,))


def greedy_groups(
    items: Iterable[T], sizes: Callable[[T], Sequence[int]], limits: Sequence[int]
) -> Iterator[list[T]]:
    """Yield consecutive items in the largest groups whose summed `sizes` are within `limits`.

    An item beyond a limit is a group of its own.
    """
    group: list[T] = []
    totals = [0] * len(limits)
    for item in items:
        more = sizes(item)
        if group and any(map(gt, map(add, totals, more), limits)):
            yield group
            group, totals = [], [0] * len(limits)
        group.append(item)
        totals = list(map(add, totals, more))
    if group:
        yield group
