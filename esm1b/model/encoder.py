"""The network of ESM-1b and ESM-2 on flat tokens: no padding from the embedding to the logits.

Shapes: T tokens of all sequences end to end, M masked positions, W width.
Reference: facebookresearch/esm, `esm/model/esm1.py` and `esm2.py`; module names are its.
"""

import os
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from esm1b.alphabet import MASK, PAD, TOKENS
from esm1b.model.attention_plan import (
    AttentionPath,
    AttentionPlan,
    ExplicitPlan,
    PaddedPlan,
    choose_path,
    plan_attention,
)
from esm1b.model.layers import EncoderLayer, LanguageModelHead
from esm1b.model.packed import PackedTokens
from esm1b.model.rotary import RotaryPositions
from esm1b.model.shape import EncoderShape

# Token dropout (ESM, esm/model/esm1.py): 15 % of tokens are chosen, 80 % of those become <mask>.
_TRAINING_MASK_RATIO = 0.15 * 0.8

# oneDNN, which multiplies in bf16 on CPUs, compiles each product for its shape and keeps 1,024 of
# them, some megabytes each; no two micro-batches are equally long. A layer needs about 20.
_KEPT_PRODUCTS: Final = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


class Encoder(nn.Module):
    """ESM-1b's or ESM-2's encoder and language-model head.

    With `activation_checkpointing`, the backward pass computes each layer again from its input, to
    save memory in training.
    """

    def __init__(
        self,
        shape: EncoderShape,
        *,
        attention: AttentionPath = "auto",
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        os.environ.setdefault(*_KEPT_PRODUCTS)  # read at the first product
        self.shape = shape
        self.attention = attention
        self.activation_checkpointing = activation_checkpointing
        self._fixed_shapes = False
        self.embed_tokens = nn.Embedding(len(TOKENS), shape.width, padding_idx=PAD)
        self.embed_positions: nn.Embedding | None = None
        self.rotary: RotaryPositions | None = None
        if shape.is_rotary:
            self.rotary = RotaryPositions(shape.positions, shape.head_width)
        else:
            # Rows 0 and 1 (PAD) hold no position: the first token of a sequence uses row 2.
            self.embed_positions = nn.Embedding(shape.position_rows, shape.width, padding_idx=PAD)
        self.emb_layer_norm_before = (
            nn.LayerNorm(shape.width) if shape.layer_norm_before else nn.Identity()
        )
        self.layers = nn.ModuleList(EncoderLayer(shape) for _ in range(shape.layers))
        self.emb_layer_norm_after = nn.LayerNorm(shape.width)
        self.lm_head = LanguageModelHead(shape.width)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.embed_tokens.weight.device

    def forward(self, packed: PackedTokens, masked_positions: Tensor | None = None) -> Tensor:
        """Return logits `[M, 33]` at `masked_positions` (int64 `[M]`), or `[T, 33]` without.

        Raises:
            ValueError: a sequence has more tokens than there are positions.
            UserError: the attention path does not run here.
        """
        for state in self._states(packed, positions=masked_positions):
            final = state
        logits: Tensor = self.lm_head(final, self.embed_tokens.weight)
        return logits

    def representations(self, packed: PackedTokens, layers: Collection[int]) -> dict[int, Tensor]:
        """Return `[T, W]` by layer: 0 is the input of the stack, the last leaves the final norm."""
        states = enumerate(self._states(packed))
        return {number: state for number, state in states if number in layers}

    def attention_maps(self, packed: PackedTokens) -> Iterator[list[Tensor]]:
        """Yield for each layer the attention maps of each sequence, `[heads, length, length]`.

        Rows are queries, special tokens included; float32, or float64 of a network in float64.
        """
        maps: list[list[Tensor]] = []
        padded = PaddedPlan.of(packed.lengths, packed.tokens.device)
        states = self._states(packed, ExplicitPlan(padded=padded, observe=maps.append))
        next(states)
        for _ in states:
            yield maps.pop()

    def untrained(self, seed: int) -> "Encoder":
        """Return an encoder of the same shape, precision and device with initial weights."""
        encoder = Encoder(self.shape, attention=self.attention)
        initialise(encoder, seed)
        return encoder.to(self.device, self.embed_tokens.weight.dtype).eval()

    def compile_layers(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile the layers, once for training and once for evaluation.

        Shapes must not change, see `PackedTokens.filled`, and attention must be varlen.
        """
        self._fixed_shapes = True
        for layer in self.layers:
            layer.compile(fullgraph=True, dynamic=False, backend=backend)

    def _states(
        self,
        packed: PackedTokens,
        plan: AttentionPlan | None = None,
        positions: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Yield the input of the stack, then the output of each layer.

        That of the last layer has passed the final norm and, with `positions`, is `[M, W]`.
        """
        x = self._embed(packed)
        yield x
        if plan is None:
            path = choose_path(
                self.attention, device=x.device, dtype=x.dtype, head_width=self.shape.head_width
            )
            plan = plan_attention(packed, path)
        if self.rotary is not None:
            plan = self.rotary(plan, packed.offsets, x.dtype)
        for number, layer in enumerate(self.layers, start=1):
            is_last = number == len(self.layers)
            at = positions if is_last and not self._fixed_shapes else None
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, plan, at, use_reentrant=False)
            else:
                x = layer(x, plan, at)
            if is_last and positions is not None and at is None:
                x = x.index_select(0, positions)
            yield self.emb_layer_norm_after(x) if is_last else x

    def _embed(self, packed: PackedTokens) -> Tensor:
        """Return `[T, W]`: tokens with token dropout, learned positions, the first layer norm."""
        if max(packed.lengths) > self.shape.maximum_tokens:
            raise ValueError(
                f"a sequence has {max(packed.lengths)} tokens with <cls> and <eos>; "
                f"expected at most {self.shape.maximum_tokens}"
            )
        x = self.embed_tokens(packed.tokens)
        x = x * self._token_dropout_scale(packed).to(x.dtype)[:, None]
        if self.embed_positions is not None:
            x = x + self.embed_positions(packed.offsets + PAD + 1)
        normed: Tensor = self.emb_layer_norm_before(x)
        return normed

    def _token_dropout_scale(self, packed: PackedTokens) -> Tensor:
        """Return `[T]`: 0 at masks, else (1 - 0.15 * 0.8) / (1 - masked share of the sequence)."""
        is_mask = packed.tokens == MASK
        masked_until = functional.pad(is_mask.cumsum(0), (1, 0))
        ends = packed.cumulative_lengths.long()
        exact = torch.float32 if is_mask.device.type == "mps" else torch.float64  # it has none
        masked = masked_until[ends].diff().to(exact)
        scale = (1 - _TRAINING_MASK_RATIO) / (1 - masked / ends.diff())
        return scale[packed.sequence_index].masked_fill(is_mask, 0.0)


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
    if encoder.embed_positions is not None:
        encoder.embed_positions.weight[PAD] = 0.0
    encoder.lm_head.bias.zero_()
