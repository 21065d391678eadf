"""Self-attention within each of several sequences that lie end to end."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["AttentionPlan", "SelfAttention", "plan_attention"]

# A group holds sequences of similar length, padded to its longest. Padding costs arithmetic, a
# further group costs one more call of the kernel.
_SHORTEST_IN_GROUP = 0.85


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Sequences of similar length, `[sequences, length]` rows of the padded layout."""

    start: int
    sequences: int
    length: int
    key_mask: Tensor | None  # bool [sequences, 1, 1, length], None where nothing is padded


@dataclass(frozen=True, kw_only=True)
class AttentionPlan:
    """How flat tokens become padded groups and flat again.

    Attributes:
        to_padded: int64 `[padded_tokens]`, the flat token at each padded place; padding repeats
            token 0, which `key_mask` hides.
        to_flat: int64 `[total_tokens]`, the padded place of each flat token.
        groups: the groups in the order of the padded layout.
    """

    to_padded: Tensor
    to_flat: Tensor
    groups: tuple[_Group, ...]


def plan_attention(lengths: Sequence[int], device: torch.device) -> AttentionPlan:
    """Group sequences of `lengths` tokens so that little is padded."""
    starts = np.concatenate(([0], np.cumsum(lengths)))
    total_tokens = int(starts[-1])
    order = sorted(range(len(lengths)), key=lambda sequence: -lengths[sequence])
    to_padded: list[np.ndarray] = []
    to_flat = np.empty(total_tokens, dtype=np.int64)
    groups: list[_Group] = []
    padded_tokens = 0
    while order:
        longest = lengths[order[0]]
        members = [s for s in order if lengths[s] >= _SHORTEST_IN_GROUP * longest]
        order = order[len(members) :]
        counts = np.array([lengths[s] for s in members])
        places = np.arange(longest)
        inside = places < counts[:, None]
        flat = np.where(inside, starts[members][:, None] + places, 0)
        padded = padded_tokens + np.arange(flat.size).reshape(flat.shape)
        to_flat[flat[inside]] = padded[inside]
        to_padded.append(flat.ravel())
        key_mask = None if inside.all() else torch.from_numpy(inside)[:, None, None, :].to(device)
        groups.append(
            _Group(start=padded_tokens, sequences=len(members), length=longest, key_mask=key_mask)
        )
        padded_tokens += flat.size
    return AttentionPlan(
        to_padded=torch.from_numpy(np.concatenate(to_padded)).to(device),
        to_flat=torch.from_numpy(to_flat).to(device),
        groups=tuple(groups),
    )


class SelfAttention(nn.Module):
    """Multi-head self-attention with separate, biased projections.

    As facebookresearch/esm, `esm/multihead_attention.py`: queries are scaled by
    `head_width ** -0.5` after their projection; there is no dropout.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, plan: AttentionPlan) -> Tensor:
        """Return `[total_tokens, width]` from `x` of the same shape."""
        padded = [
            projection(x).index_select(0, plan.to_padded)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        ]
        contexts = []
        for group in plan.groups:
            query, key, value = (self._heads_of(states, group) for states in padded)
            context = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=group.key_mask
            )
            contexts.append(context.transpose(1, 2).reshape(-1, x.shape[-1]))
        return self._project(contexts, plan)

    def with_maps(self, x: Tensor, plan: AttentionPlan) -> tuple[Tensor, list[Tensor]]:
        """Return what `forward` returns, and the attention maps of each group.

        A map is `[sequences, heads, length, length]`, float32, row = query, zero at padded keys.
        """
        query, key, value = (
            projection(x).index_select(0, plan.to_padded)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        contexts, maps = [], []
        for group in plan.groups:
            scores = self._heads_of(query, group) @ self._heads_of(key, group).transpose(-1, -2)
            scores = scores * (x.shape[-1] // self.heads) ** -0.5
            if group.key_mask is not None:
                scores = scores.masked_fill(~group.key_mask, float("-inf"))
            weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
            maps.append(weights)
            context = weights.to(x.dtype) @ self._heads_of(value, group)
            contexts.append(context.transpose(1, 2).reshape(-1, x.shape[-1]))
        return self._project(contexts, plan), maps

    def _project(self, contexts: Sequence[Tensor], plan: AttentionPlan) -> Tensor:
        """Return `[total_tokens, width]` from the padded contexts of each group."""
        output: Tensor = self.out_proj(torch.cat(list(contexts)).index_select(0, plan.to_flat))
        return output

    def _heads_of(self, padded: Tensor, group: _Group) -> Tensor:
        """Return a group's rows of `padded` as `[sequences, heads, length, head_width]`."""
        rows = padded[group.start : group.start + group.sequences * group.length]
        return rows.view(group.sequences, group.length, self.heads, -1).transpose(1, 2)
