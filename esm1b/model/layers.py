"""The parts of the network: attention, a layer, the language-model head, the contact head.

Shapes: T tokens of all sequences end to end, P chosen positions, W width.
Reference: facebookresearch/esm, `esm/modules.py` and `esm/multihead_attention.py`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from esm1b.alphabet import MASK, TOKENS
from esm1b.model.attention_plan import AttentionPlan
from esm1b.model.rotary import PairedLinear
from esm1b.model.shape import EncoderShape


class SelfAttention(nn.Module):
    """Multi-head self-attention with separate, biased projections and no dropout.

    Queries are scaled by `head_width ** -0.5`, here within the plan. With rotary positions they
    and the keys come in pairs.
    """

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        width, self.heads = shape.width, shape.heads

        def turning() -> nn.Linear:
            return PairedLinear(width, shape.heads) if shape.is_rotary else nn.Linear(width, width)

        self.k_proj = turning()
        self.v_proj = nn.Linear(width, width)
        self.q_proj = turning()
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, plan: AttentionPlan, positions: Tensor | None = None) -> Tensor:
        """Return `[T, W]` from `x` of the same shape; `[P, W]` at `positions` only."""
        plan_at = None if positions is None else plan.at(positions)
        asking = x if positions is None or plan_at is None else x.index_select(0, positions)
        query, key, value = (
            projection(states).unflatten(-1, (self.heads, -1))
            for projection, states in ((self.q_proj, asking), (self.k_proj, x), (self.v_proj, x))
        )
        context = (plan_at or plan).attend(query, key, value).flatten(1)
        if positions is not None and plan_at is None:
            context = context.index_select(0, positions)
        output: Tensor = self.out_proj(context)
        return output


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer: attention and a feed-forward network, each with a residual."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.self_attn = SelfAttention(shape)
        self.self_attn_layer_norm = nn.LayerNorm(shape.width)
        self.fc1 = nn.Linear(shape.width, shape.feed_forward)
        self.fc2 = nn.Linear(shape.feed_forward, shape.width)
        self.final_layer_norm = nn.LayerNorm(shape.width)

    def forward(self, x: Tensor, plan: AttentionPlan, positions: Tensor | None = None) -> Tensor:
        """Return `[T, W]` from `[T, W]`; `[P, W]` at `positions` only."""
        attended = self.self_attn(self.self_attn_layer_norm(x), plan, positions)
        x = attended + (x if positions is None else x.index_select(0, positions))
        hidden = functional.gelu(self.fc1(self.final_layer_norm(x)))
        output: Tensor = x + self.fc2(hidden)
        return output


class LanguageModelHead(nn.Module):
    """Dense, GELU, layer norm, then the token embedding as the projection, with a free bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.layer_norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(len(TOKENS)))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return logits `[..., 33]` from `x` `[..., W]` and the embedding `[33, W]`.

        The `<mask>` row takes no part in training: fair-esm zeroes it when it loads weights, so a
        trained one would change the logits there.
        """
        projection = torch.cat((embedding[:MASK], embedding[MASK:].detach()))
        x = self.layer_norm(functional.gelu(self.dense(x)))
        return functional.linear(x, projection, self.bias)


@dataclass(frozen=True, kw_only=True, eq=False)
class ContactHead:
    """Contact probabilities from attention (facebookresearch/esm, `esm/modules.py`).

    Attributes:
        coefficients: float32 `[layers * heads]`, channel = layer * heads + head.
        intercept: float32, without dimensions.
    """

    coefficients: Tensor
    intercept: Tensor

    @property
    def is_fitted(self) -> bool:
        """True if any coefficient is not zero."""
        return bool(self.coefficients.any())

    def probabilities(self, layers: Iterable[Tensor]) -> Tensor:
        """Return the probability of a contact, `[length, length]`, symmetric.

        `layers` yields the attention maps of a layer at a time, `[heads, length, length]` without
        the rows and columns of `<cls>` and `<eos>`.
        """
        logits = torch.zeros(())
        channel = 0
        for maps in layers:
            coefficients = self.coefficients[channel : channel + len(maps)].to(maps)
            channel += len(maps)
            # APC of the symmetrised maps: a - row sum * column sum / sum, and both sums are equal.
            symmetric = maps + maps.transpose(-1, -2)
            sums = symmetric.sum(-1)
            total = sums.sum(-1)
            expected = torch.einsum("hi,hj->ij", sums * (coefficients / total)[:, None], sums)
            logits = logits + (torch.einsum("h,hij->ij", coefficients, symmetric) - expected)
        return torch.sigmoid(logits + self.intercept.to(logits))
