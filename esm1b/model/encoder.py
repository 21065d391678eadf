"""The network of ESM-1b on flat tokens: no padding from the embedding to the logits.

Shapes: T tokens of all sequences end to end, W width, M masked positions.
Reference: facebookresearch/esm, `esm/model/esm1.py` and `esm/modules.py`; module names are its.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from esm1b.alphabet import MASK, PAD, TOKENS
from esm1b.model.attention import SelfAttention
from esm1b.model.attention_plan import (
    AttentionPath,
    AttentionPlan,
    ExplicitPlan,
    PaddedPlan,
    choose_path,
    plan_attention,
)
from esm1b.model.packed import PackedTokens
from esm1b.model.shape import EncoderShape

# Token dropout (ESM, esm/model/esm1.py): 15 % of tokens are chosen, 80 % of those become <mask>.
_TRAINING_MASK_RATIO = 0.15 * 0.8


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What the encoder computed.

    Attributes:
        final: `[T, W]` after the last layer norm, or `[M, W]` at the positions that were named.
        representations: `[T, W]` by layer: 0 is the input of the stack, the last one is `final`.
    """

    final: Tensor
    representations: dict[int, Tensor]


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer: attention and a feed-forward network, each with a residual."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.self_attn = SelfAttention(shape.width, shape.heads)
        self.self_attn_layer_norm = nn.LayerNorm(shape.width)
        self.fc1 = nn.Linear(shape.width, shape.feed_forward)
        self.fc2 = nn.Linear(shape.feed_forward, shape.width)
        self.final_layer_norm = nn.LayerNorm(shape.width)

    def forward(self, x: Tensor, plan: AttentionPlan, positions: Tensor | None = None) -> Tensor:
        """Return `[T, W]` from `[T, W]`; `[M, W]` at M `positions` only."""
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


class Encoder(nn.Module):
    """ESM-1b's encoder and language-model head.

    Args:
        shape: the size of the network.
        attention: how tokens attend; "auto" is varlen on CUDA in bf16 and fp16, sdpa elsewhere.
        activation_checkpointing: in training, keep only the input of each layer and compute the
            rest again in the backward pass.
    """

    def __init__(
        self,
        shape: EncoderShape,
        *,
        attention: AttentionPath = "auto",
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.attention = attention
        self.activation_checkpointing = activation_checkpointing
        self._fixed_shapes = False
        self.embed_tokens = nn.Embedding(len(TOKENS), shape.width, padding_idx=PAD)
        # Rows 0 and 1 (PAD) hold no position: the first token of a sequence uses row 2.
        self.embed_positions = nn.Embedding(shape.position_rows, shape.width, padding_idx=PAD)
        self.emb_layer_norm_before = (
            nn.LayerNorm(shape.width) if shape.layer_norm_before else nn.Identity()
        )
        self.layers = nn.ModuleList(EncoderLayer(shape) for _ in range(shape.layers))
        self.emb_layer_norm_after = nn.LayerNorm(shape.width)
        self.lm_head = LanguageModelHead(shape.width)

    def forward(self, packed: PackedTokens, masked_positions: Tensor | None = None) -> Tensor:
        """Return logits `[M, 33]` at `masked_positions` (int64 `[M]`), or `[T, 33]` without."""
        return self.logits(self.encode(packed, positions=masked_positions).final)

    def logits(self, final: Tensor) -> Tensor:
        """Return logits `[..., 33]` of final representations `[..., W]`."""
        logits: Tensor = self.lm_head(final, self.embed_tokens.weight)
        return logits

    def padded(self, tokens: Tensor) -> Tensor:
        """Return logits `[batch, length, 33]` of `tokens` `[batch, length]`, padded on the right.

        Nothing is computed at the padding, where the logits are zero.

        Raises:
            ValueError: a sequence is empty, has padding inside, or is too long.
        """
        packed = PackedTokens.from_padded(tokens)
        logits = packed.to_padded(self(packed))
        return functional.pad(logits, (0, 0, 0, tokens.shape[1] - logits.shape[1]))

    def compile_layers(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile the layers, which share one compilation for each of training and evaluation.

        Shapes must not change, see `PackedTokens.filled`, and attention must be varlen.

        Args:
            backend: of `torch.compile`.
        """
        self._fixed_shapes = True
        for layer in self.layers:
            layer.compile(fullgraph=True, dynamic=False, backend=backend)

    def encode(
        self,
        packed: PackedTokens,
        *,
        representation_layers: Collection[int] = (),
        positions: Tensor | None = None,
    ) -> Encoded:
        """Run the stack; keep the representations that were asked for.

        Args:
            packed: the tokens.
            representation_layers: 0 is the input of the stack, `layers` what leaves the last norm.
            positions: int64 `[M]`; the last layer's result is computed at these tokens only, and
                `final` is `[M, W]`.

        Raises:
            ValueError: a sequence has more tokens than there are positions.
            UserError: the attention path does not run here.
        """
        x = self._embed(packed)
        head_width = self.shape.width // self.shape.heads
        path = choose_path(self.attention, device=x.device, dtype=x.dtype, head_width=head_width)
        kept: dict[int, Tensor] = {}
        inside = None if self._fixed_shapes else positions
        for number, state in enumerate(self._states(x, plan_attention(packed, path), inside)):
            x = state
            if number in representation_layers:
                kept[number] = x
        if self._fixed_shapes and positions is not None:
            x = x.index_select(0, positions)
        final = self.emb_layer_norm_after(x)
        if len(self.layers) in representation_layers:
            kept[len(self.layers)] = final
        return Encoded(final=final, representations=kept)

    def attention_maps(self, packed: PackedTokens) -> Iterator[list[Tensor]]:
        """Yield for each layer the attention maps of each sequence, `[heads, length, length]`.

        Rows are queries, special tokens included; float32, or float64 of a network in float64.
        Attention is computed explicitly, and a layer's maps are made when it is their turn.
        """
        maps: list[list[Tensor]] = []
        x = self._embed(packed)
        plan = ExplicitPlan(padded=PaddedPlan.of(packed.lengths, x.device), observe=maps.append)
        states = self._states(x, plan)
        next(states)
        for _ in states:
            yield maps.pop()

    def _states(
        self, x: Tensor, plan: AttentionPlan, positions: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Yield `x`, then what leaves each layer, the last one at `positions` only."""
        yield x
        for number, layer in enumerate(self.layers, start=1):
            at = positions if number == len(self.layers) else None
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, plan, at, use_reentrant=False)
            else:
                x = layer(x, plan, at)
            yield x

    def _embed(self, packed: PackedTokens) -> Tensor:
        """Return `[T, W]`: tokens with token dropout, then positions, then the first layer norm."""
        if max(packed.lengths) > self.shape.maximum_tokens:
            raise ValueError(
                f"a sequence has {max(packed.lengths)} tokens with <cls> and <eos>; "
                f"expected at most {self.shape.maximum_tokens}"
            )
        is_mask = packed.tokens == MASK
        x = self.embed_tokens(packed.tokens).masked_fill(is_mask[:, None], 0.0)
        x = x * self._token_dropout_scale(packed, is_mask).to(x.dtype)[:, None]
        x = x + self.embed_positions(packed.offsets + PAD + 1)
        normed: Tensor = self.emb_layer_norm_before(x)
        return normed

    def _token_dropout_scale(self, packed: PackedTokens, is_mask: Tensor) -> Tensor:
        """Return `[T]`, (1 - 0.15 * 0.8) / (1 - masked share of the token's sequence)."""
        masked_until = functional.pad(is_mask.cumsum(0), (1, 0))
        ends = packed.cumulative_lengths.long()
        masked = masked_until[ends].diff().to(torch.float64)
        scale = (1 - _TRAINING_MASK_RATIO) / (1 - masked / ends.diff())
        return scale[packed.sequence_index]


@torch.no_grad()
def initialise(encoder: Encoder, seed: int) -> None:
    """Draw BERT's initial weights (fairseq `init_bert_params`): N(0, 0.02), biases 0, norms 1.

    The rows of `<pad>` and `<mask>` are zero. The draw depends on `seed` alone.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in encoder.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.normal_(0.0, 0.02, generator=generator)
        if isinstance(module, nn.Linear):
            module.bias.zero_()
        if isinstance(module, nn.LayerNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()
    encoder.embed_tokens.weight[[PAD, MASK]] = 0.0
    encoder.embed_positions.weight[PAD] = 0.0
    encoder.lm_head.bias.zero_()
