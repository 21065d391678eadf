"""Ways to attend within each of several sequences that are laid end to end.

Shapes: T tokens of all sequences, P of them at chosen positions, H heads, D width of a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from esm1b.errors import UserError
from esm1b.model.packed import PackedTokens

AttentionPath = Literal["auto", "varlen", "sdpa", "explicit"]


class AttentionPlan(Protocol):
    """A way to attend, made once for all layers."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return `[T, H, D]` from three of that shape, scores divided by sqrt(D)."""

    def at(self, positions: Tensor) -> "AttentionPlan | None":
        """Return a plan for queries at `positions` `[P]` alone; None if it computes all."""


# A group holds sequences of similar length, padded to its longest. Padding costs arithmetic, a
# further group costs one more call of the kernel.
_SHORTEST_IN_GROUP = 0.9


@dataclass(frozen=True, kw_only=True)
class PaddedLayout:
    """Padded rows, one for each sequence, in groups of rows of one width.

    Attributes:
        to_padded: int64 `[places]`, flat entry at each padded place; padding repeats entry 0. None
            where rows follow each other as the flat entries do, as of sequences of one length.
        to_flat: int64 `[entries]`, padded place of each flat entry; None likewise.
        shapes: number of rows and their width, by group.
    """

    to_padded: Tensor | None
    to_flat: Tensor | None
    shapes: Sequence[tuple[int, int]]

    @classmethod
    def of(
        cls, owners: NDArray[np.int64], groups: Sequence[list[int]], device: torch.device
    ) -> "PaddedLayout":
        """Lay out flat entries of the sequences `owners`; each of `groups` lists its sequences."""
        counts = np.bincount(owners, minlength=sum(map(len, groups)))
        row_starts = np.empty_like(counts)
        shapes: list[tuple[int, int]] = []
        places = 0
        for group in groups:
            rows, width = len(group), int(counts[group].max())
            row_starts[group] = places + np.arange(rows) * width
            shapes.append((rows, width))
            places += rows * width
        # The entries of a sequence fill its row from the left: among the entries sorted by
        # sequence, an entry's offset is its rank less that of the first one of its sequence.
        by_owner = np.argsort(owners, kind="stable")
        first_rank = np.cumsum(counts) - counts
        to_flat = np.empty_like(owners)
        to_flat[by_owner] = np.arange(len(owners)) + (row_starts - first_rank)[owners[by_owner]]
        if places == len(owners) and np.array_equal(to_flat, np.arange(places)):
            return cls(to_padded=None, to_flat=None, shapes=shapes)
        to_padded = np.zeros(places, dtype=np.int64)
        to_padded[to_flat] = np.arange(len(owners))
        return cls(
            to_padded=torch.from_numpy(to_padded).to(device),
            to_flat=torch.from_numpy(to_flat).to(device),
            shapes=shapes,
        )

    def rows(self, states: Tensor) -> list[Tensor]:
        """Return each group's `[rows, H, width, D]` of flat `states` `[entries, H, D]`."""
        # Split at once: the gradient of a slice would be as large as all groups, mostly zeros.
        sizes = [rows * width for rows, width in self.shapes]
        padded = states if self.to_padded is None else states.index_select(0, self.to_padded)
        parts = torch.split(padded, sizes)
        return [
            part.view(*shape, *states.shape[1:]).transpose(1, 2)
            for part, shape in zip(parts, self.shapes, strict=True)
        ]

    def flat(self, places: Tensor) -> Tensor:
        """Return `[entries, H, D]` of what is at the padded `places` `[places, H, D]`."""
        return places if self.to_flat is None else places.index_select(0, self.to_flat)


@dataclass(frozen=True, kw_only=True)
class PaddedPlan:
    """`scaled_dot_product_attention` over groups of sequences of similar length.

    The sequences of each group are by descending length. Its mask is bool `[rows, 1, 1, width]`,
    true at tokens, or None without padding.
    """

    lengths: Sequence[int]
    groups: Sequence[list[int]]
    key_masks: Sequence[Tensor | None]
    keys: PaddedLayout
    queries: PaddedLayout

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> "PaddedPlan":
        """Group sequences of `lengths` tokens so that little is padded."""
        counts = np.asarray(lengths, dtype=np.int64)
        order = sorted(range(len(lengths)), key=lambda sequence: -lengths[sequence])
        groups: list[list[int]] = []
        key_masks: list[Tensor | None] = []
        while order:
            longest = lengths[order[0]]
            groups.append([s for s in order if lengths[s] >= _SHORTEST_IN_GROUP * longest])
            order = order[len(groups[-1]) :]
            inside = np.arange(longest) < counts[groups[-1]][:, None]
            mask = None if inside.all() else torch.from_numpy(inside)[:, None, None, :].to(device)
            key_masks.append(mask)
        layout = PaddedLayout.of(np.repeat(np.arange(len(counts)), counts), groups, device)
        return cls(lengths=lengths, groups=groups, key_masks=key_masks, keys=layout, queries=layout)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return `[T, H, D]`, or `[P, H, D]` of a plan that `at` made."""
        kernel: Callable[..., Tensor] = functional.scaled_dot_product_attention
        if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad:
            kernel = _attend_in_float32
        return self.attend_with(kernel, query, key, value)

    def attend_with(
        self, kernel: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        """Attend by `kernel`, which takes a group's padded queries, keys, values and key mask."""
        rows = self.queries.rows(query), self.keys.rows(key), self.keys.rows(value)
        groups = zip(*rows, self.key_masks, strict=True)
        contexts = [kernel(*group).transpose(1, 2).flatten(0, 1) for group in groups]
        return self.queries.flat(torch.cat(contexts))

    def at(self, positions: Tensor) -> "PaddedPlan | None":
        """Return a plan with queries at `positions` `[P]` alone, which may be in any order."""
        if positions.is_cuda:
            return None  # to lay them out the host would have to wait for the device
        owners = np.searchsorted(np.cumsum(self.lengths), positions.numpy(), side="right")
        layout = PaddedLayout.of(owners, self.groups, positions.device)
        return replace(self, queries=layout)


def _attend_in_float32(
    query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None
) -> Tensor:
    # PyTorch's backward pass in bf16 is slow on CPUs: with the forward pass 1.9 to 6 x the time of
    # this one on AVX-512 (heads of 16 to 64, 128 to 1,024 tokens), alone 3.3 x on AMX. Products
    # written out in bf16 take 1.6 to 3.7 x. Without gradients there is no difference.
    context = functional.scaled_dot_product_attention(
        query.float(), key.float(), value.float(), key_mask
    )
    return context.to(query.dtype)


@dataclass(frozen=True, kw_only=True)
class ExplicitPlan:
    """Softmax written out, so that the attention maps can be observed.

    Each layer calls `observe` with the maps of each sequence, `[H, length, length]`, row = query,
    float32 or, from float64 states, float64.
    """

    padded: PaddedPlan
    observe: Callable[[list[Tensor]], None] | None = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return `[T, H, D]`."""
        maps: list[Tensor] = []  # group by group

        def explicit(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None) -> Tensor:
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
            if key_mask is not None:
                scores = scores.masked_fill(~key_mask, float("-inf"))
            weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
            maps.extend(weights)
            context: Tensor = weights.to(value.dtype) @ value
            return context

        context = self.padded.attend_with(explicit, query, key, value)
        if self.observe is not None:
            by_sequence = dict(zip(chain(*self.padded.groups), maps, strict=True))
            self.observe([by_sequence[s][:, :n, :n] for s, n in enumerate(self.padded.lengths)])
        return context

    def at(self, positions: Tensor) -> None:
        """Return None: the maps have a row for every token."""


@dataclass(frozen=True, kw_only=True)
class VarlenPlan:
    """Flash attention over flat tokens, on CUDA in bf16 or fp16.

    `kernel` is `torch.nn.attention.varlen.varlen_attn`.
    """

    packed: PackedTokens
    kernel: Callable[..., Any]

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return `[T, H, D]`."""
        ends, longest = self.packed.cumulative_lengths, self.packed.longest
        # Only what the releases from 2.10 on share: further arguments were renamed or added.
        context: Tensor = self.kernel(query, key, value, ends, ends, longest, longest)
        return context

    def at(self, positions: Tensor) -> None:
        """Return None: one layer's attention is little beside the rest, and shapes stay fixed."""


def choose_path(
    path: AttentionPath, *, device: torch.device, dtype: torch.dtype, head_width: int
) -> Literal["varlen", "sdpa", "explicit"]:
    """Return the path that `path` names; "auto" is varlen where it runs, and sdpa elsewhere.

    Raises:
        UserError: varlen is requested and does not run here.
    """
    if path == "sdpa" or path == "explicit":
        return path
    if device.type != "cuda":
        reason = f"the network is on {device.type}"
    elif dtype not in (torch.bfloat16, torch.float16):
        reason = f"the network is in {str(dtype).removeprefix('torch.')}"
    elif head_width % 8 or head_width > 256:
        reason = f"heads are {head_width} wide"
    else:
        return "varlen"
    if path == "varlen":
        raise UserError(
            f"attention: varlen, but {reason}; expected CUDA, bf16 or fp16, and a head width that "
            "is a multiple of 8 up to 256"
        )
    return "sdpa"


def plan_attention(
    packed: PackedTokens, path: Literal["varlen", "sdpa", "explicit"]
) -> AttentionPlan:
    """Return how the sequences of `packed` attend by `path`."""
    if path == "varlen":
        from torch.nn.attention.varlen import varlen_attn  # takes seconds to import

        return VarlenPlan(packed=packed, kernel=varlen_attn)
    padded = PaddedPlan.of(packed.lengths, packed.tokens.device)
    return padded if path == "sdpa" else ExplicitPlan(padded=padded)
