"""Ways to attend within each of several sequences that lie end to end.

Shapes: T tokens of all sequences, H heads, D width of a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from esm1b.errors import UserError
from esm1b.model.packed import PackedTokens

AttentionPath = Literal["auto", "varlen", "sdpa", "explicit"]

# A group holds sequences of similar length, padded to its longest. Padding costs arithmetic, a
# further group costs one more call of the kernel.
_SHORTEST_IN_GROUP = 0.9


class AttentionPlan(Protocol):
    """How the tokens of a batch attend; made once for all layers."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return `[T, H, D]` from three of the same shape; scores are divided by sqrt(D)."""

    def at(self, positions: Tensor) -> "QueryPlan | None":
        """Return how the tokens at `positions` alone attend; None where all are computed anyway."""


class QueryPlan(Protocol):
    """How some of the tokens of a batch attend to all."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return `[P, H, D]` from queries `[P, H, D]`, keys and values `[T, H, D]`."""


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Sequences of similar length: `[sequences, length]` places of the padded layout."""

    length: int
    members: tuple[int, ...]
    key_mask: Tensor | None  # bool [sequences, 1, 1, length], None where nothing is padded

    @property
    def places(self) -> int:
        """Places of the group, padding included."""
        return len(self.members) * self.length


@dataclass(frozen=True, kw_only=True)
class PaddedPlan:
    """`scaled_dot_product_attention` over groups of sequences of similar length.

    Attributes:
        to_padded: int64 `[places]`, the flat token at each padded place; padding repeats token 0,
            which `key_mask` hides.
        to_flat: int64 `[T]`, the padded place of each flat token.
        lengths: tokens of each sequence.
        groups: in the order of the padded layout.
    """

    to_padded: Tensor
    to_flat: Tensor
    lengths: tuple[int, ...]
    groups: tuple[_Group, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> "PaddedPlan":
        """Group sequences of `lengths` tokens so that little is padded."""
        starts = np.concatenate(([0], np.cumsum(lengths)))
        order = sorted(range(len(lengths)), key=lambda sequence: -lengths[sequence])
        to_padded: list[np.ndarray] = []
        to_flat = np.empty(int(starts[-1]), dtype=np.int64)
        groups: list[_Group] = []
        places = 0
        while order:
            longest = lengths[order[0]]
            members = [s for s in order if lengths[s] >= _SHORTEST_IN_GROUP * longest]
            order = order[len(members) :]
            counts = np.array([lengths[s] for s in members])
            inside = np.arange(longest) < counts[:, None]
            flat = np.where(inside, starts[members][:, None] + np.arange(longest), 0)
            padded = places + np.arange(flat.size).reshape(flat.shape)
            to_flat[flat[inside]] = padded[inside]
            to_padded.append(flat.ravel())
            mask = None if inside.all() else torch.from_numpy(inside)[:, None, None, :].to(device)
            groups.append(_Group(length=longest, members=tuple(members), key_mask=mask))
            places += flat.size
        return cls(
            to_padded=torch.from_numpy(np.concatenate(to_padded)).to(device),
            to_flat=torch.from_numpy(to_flat).to(device),
            lengths=tuple(lengths),
            groups=tuple(groups),
        )

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return `[T, H, D]`."""
        contexts = []
        for group, *states in zip(self.groups, *map(self.rows, (query, key, value)), strict=True):
            rows_query, rows_key, rows_value = states
            context = functional.scaled_dot_product_attention(
                rows_query, rows_key, rows_value, attn_mask=group.key_mask
            )
            contexts.append(context.transpose(1, 2).flatten(0, 1))
        return torch.cat(contexts).index_select(0, self.to_flat)

    def at(self, positions: Tensor) -> "QueryPlan | None":
        """Return how the tokens at `positions` `[P]`, in any order, attend."""
        if positions.is_cuda:
            return None  # to lay them out the host would have to wait for the device
        return _PaddedQueryPlan.of(self, positions)

    def rows(self, states: Tensor) -> list[Tensor]:
        """Return each group's `[sequences, H, length, D]` of `states` `[T, H, D]`."""
        # Split at once: the gradient of a slice would be as large as all groups, mostly zeros.
        sizes = [group.places for group in self.groups]
        parts = torch.split(states.index_select(0, self.to_padded), sizes)
        return [
            part.view(-1, group.length, *states.shape[1:]).transpose(1, 2)
            for group, part in zip(self.groups, parts, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class _PaddedQueryPlan:
    """Queries of some tokens, in the groups of their sequences.

    Attributes:
        keys: how the tokens are grouped.
        to_padded: int64 `[places]`, the query at each padded place; padding repeats query 0.
        to_flat: int64 `[P]`, the padded place of each query.
        queries: padded queries of each sequence of a group, group by group.
    """

    keys: PaddedPlan
    to_padded: Tensor
    to_flat: Tensor
    queries: tuple[int, ...]

    @classmethod
    def of(cls, keys: PaddedPlan, positions: Tensor) -> "_PaddedQueryPlan":
        """Lay the tokens at `positions` `[P]` out sequence by sequence."""
        owner = np.searchsorted(np.cumsum(keys.lengths), positions.numpy(), side="right")
        counts = np.bincount(owner, minlength=len(keys.lengths))
        by_owner = np.argsort(owner, kind="stable")
        place = np.empty(len(owner), dtype=np.int64)
        place[by_owner] = np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner[by_owner]]
        first_place = np.empty(len(counts), dtype=np.int64)
        queries: list[int] = []
        places = 0
        for group in keys.groups:
            members = np.array(group.members)
            queries.append(int(counts[members].max()))
            first_place[members] = places + np.arange(len(members)) * queries[-1]
            places += len(members) * queries[-1]
        to_flat = first_place[owner] + place
        to_padded = np.zeros(places, dtype=np.int64)
        to_padded[to_flat] = np.arange(len(owner))
        return cls(
            keys=keys,
            to_padded=torch.from_numpy(to_padded),
            to_flat=torch.from_numpy(to_flat),
            queries=tuple(queries),
        )

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return `[P, H, D]`."""
        groups = self.keys.groups
        sizes = [len(g.members) * count for g, count in zip(groups, self.queries, strict=True)]
        parts = torch.split(query.index_select(0, self.to_padded), sizes)
        contexts = []
        for group, count, part, rows_key, rows_value in zip(
            groups, self.queries, parts, self.keys.rows(key), self.keys.rows(value), strict=True
        ):
            shape = (len(group.members), count, *query.shape[1:])
            rows_query = part.view(shape).transpose(1, 2)
            context = functional.scaled_dot_product_attention(
                rows_query, rows_key, rows_value, attn_mask=group.key_mask
            )
            contexts.append(context.transpose(1, 2).flatten(0, 1))
        return torch.cat(contexts).index_select(0, self.to_flat)


@dataclass(frozen=True, kw_only=True)
class ExplicitPlan:
    """Softmax written out, so that the attention maps can be seen.

    Attributes:
        padded: how sequences are grouped.
        observe: called at each layer with the maps of each sequence, `[H, length, length]`, row =
            query, float32 or, from float64 states, float64.
    """

    padded: PaddedPlan
    observe: Callable[[list[Tensor]], None] | None = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return `[T, H, D]`."""
        contexts = []
        maps: list[Tensor] = []
        rows = map(self.padded.rows, (query, key, value))
        for group, *states in zip(self.padded.groups, *rows, strict=True):
            rows_query, rows_key, rows_value = states
            scores = (rows_query * query.shape[-1] ** -0.5) @ rows_key.transpose(-1, -2)
            if group.key_mask is not None:
                scores = scores.masked_fill(~group.key_mask, float("-inf"))
            weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
            maps += weights
            context = weights.to(value.dtype) @ rows_value
            contexts.append(context.transpose(1, 2).flatten(0, 1))
        flat = torch.cat(contexts).index_select(0, self.padded.to_flat)
        if self.observe is not None:
            self.observe([maps[row][:, :length, :length] for row, length in self._rows()])
        return flat

    def at(self, positions: Tensor) -> QueryPlan | None:
        """Return None: the maps have a row for every token."""
        return None

    def _rows(self) -> list[tuple[int, int]]:
        """Return, sequence by sequence, its row among those of all groups, and its length."""
        order = [sequence for group in self.padded.groups for sequence in group.members]
        rows = {sequence: row for row, sequence in enumerate(order)}
        return [(rows[sequence], self.padded.lengths[sequence]) for sequence in range(len(order))]


def choose_path(
    path: AttentionPath, *, device: torch.device, dtype: torch.dtype, head_width: int
) -> Literal["varlen", "sdpa", "explicit"]:
    """Return the path that `path` names; "auto" is varlen where it runs, and sdpa elsewhere.

    Raises:
        UserError: varlen was asked for and does not run here.
    """
    if path == "sdpa" or path == "explicit":
        return path
    reason = None
    if device.type != "cuda":
        reason = f"the network is on {device.type}"
    elif dtype not in (torch.bfloat16, torch.float16):
        reason = f"the network is in {str(dtype).removeprefix('torch.')}"
    elif head_width % 8 or head_width > 256:
        reason = f"heads are {head_width} wide"
    if reason is None:
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
        from esm1b.model.varlen_plan import VarlenPlan  # its kernels take seconds to import

        return VarlenPlan(cumulative_lengths=packed.cumulative_lengths, longest=packed.longest)
    padded = PaddedPlan.of(packed.lengths, packed.tokens.device)
    return padded if path == "sdpa" else ExplicitPlan(padded=padded)
