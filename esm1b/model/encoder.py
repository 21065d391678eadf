"""The network of ESM-1b on flat tokens: no padding from the embedding to the logits.

Shapes: T tokens of all sequences end to end, W width, M masked positions.
Reference: facebookresearch/esm, `esm/model/esm1.py` and `esm/modules.py`; module names are its.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from esm1b.alphabet import MASK, PAD, TOKENS
from esm1b.model.attention import AttentionPlan, SelfAttention, plan_attention
from esm1b.model.packed import PackedTokens
from esm1b.model.shape import EncoderShape

__all__ = ["Encoded", "Encoder", "initialise"]

# Token dropout (ESM, esm/model/esm1.py): 15 % of tokens are chosen, 80 % of those become <mask>.
_TRAINING_MASK_RATIO = 0.15 * 0.8


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What the encoder computed.

    Attributes:
        final: `[T, W]` after the last layer norm.
        representations: `[T, W]` by layer: 0 is the input of the stack, the last one is `final`.
        attentions: by layer, the maps of each group of `plan`.
        plan: how the groups lie.
    """

    final: Tensor
    plan: AttentionPlan
    representations: dict[int, Tensor]
    attentions: list[list[Tensor]]


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer: attention and a feed-forward network, each with a residual."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.self_attn = SelfAttention(shape.width, shape.heads)
        self.self_attn_layer_norm = nn.LayerNorm(shape.width)
        self.fc1 = nn.Linear(shape.width, shape.feed_forward)
        self.fc2 = nn.Linear(shape.feed_forward, shape.width)
        self.final_layer_norm = nn.LayerNorm(shape.width)

    def forward(self, x: Tensor, plan: AttentionPlan) -> Tensor:
        """Return `[T, W]` from `[T, W]`."""
        x = x + self.self_attn(self.self_attn_layer_norm(x), plan)
        return x + self._feed_forward(x)

    def with_maps(self, x: Tensor, plan: AttentionPlan) -> tuple[Tensor, list[Tensor]]:
        """Return what `forward` returns, and the attention maps by group."""
        attended, maps = self.self_attn.with_maps(self.self_attn_layer_norm(x), plan)
        x = x + attended
        return x + self._feed_forward(x), maps

    def _feed_forward(self, x: Tensor) -> Tensor:
        hidden = functional.gelu(self.fc1(self.final_layer_norm(x)))
        output: Tensor = self.fc2(hidden)
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
    """ESM-1b's encoder and language-model head."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.shape = shape
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
        final = self.encode(packed).final
        if masked_positions is not None:
            final = final.index_select(0, masked_positions)
        return self.logits(final)

    def logits(self, final: Tensor) -> Tensor:
        """Return logits `[..., 33]` of final representations `[..., W]`."""
        logits: Tensor = self.lm_head(final, self.embed_tokens.weight)
        return logits

    def encode(
        self,
        packed: PackedTokens,
        *,
        representation_layers: Collection[int] = (),
        attentions: bool = False,
    ) -> Encoded:
        """Run the stack; keep the representations and attention maps that were asked for.

        Raises:
            ValueError: a sequence has more tokens than there are positions.
        """
        if max(packed.lengths) > self.shape.maximum_tokens:
            raise ValueError(
                f"a sequence has {max(packed.lengths)} tokens with <cls> and <eos>; "
                f"expected at most {self.shape.maximum_tokens}"
            )
        plan = plan_attention(packed.lengths, packed.tokens.device)
        kept_representations: dict[int, Tensor] = {}
        kept_attentions: list[list[Tensor]] = []
        x = self._embed(packed)
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, EncoderLayer)
            if number in representation_layers:
                kept_representations[number] = x
            if attentions:
                x, maps = layer.with_maps(x, plan)
                kept_attentions.append(maps)
            else:
                x = layer(x, plan)
        final = self.emb_layer_norm_after(x)
        if len(self.layers) in representation_layers:
            kept_representations[len(self.layers)] = final
        return Encoded(
            final=final,
            plan=plan,
            representations=kept_representations,
            attentions=kept_attentions,
        )

    def _embed(self, packed: PackedTokens) -> Tensor:
        """Return `[T, W]`: tokens with token dropout, then positions, then the first layer norm."""
        is_mask = packed.tokens == MASK
        x = self.embed_tokens(packed.tokens).masked_fill(is_mask[:, None], 0.0)
        x = x * self._token_dropout_scale(packed, is_mask).to(x.dtype)[:, None]
        x = x + self.embed_positions(packed.offsets + PAD + 1)
        normed: Tensor = self.emb_layer_norm_before(x)
        return normed

    def _token_dropout_scale(self, packed: PackedTokens, is_mask: Tensor) -> Tensor:
        """Return `[T]`, (1 - 0.15 * 0.8) / (1 - masked share of the token's sequence)."""
        lengths = torch.tensor(packed.lengths, device=is_mask.device)
        masked_until = functional.pad(is_mask.cumsum(0), (1, 0))
        ends = lengths.cumsum(0)
        masked = masked_until[ends] - masked_until[ends - lengths]
        scale = (1 - _TRAINING_MASK_RATIO) / (1 - masked.to(torch.float64) / lengths)
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
