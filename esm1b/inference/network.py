"""What a model in use asks of its network, and ESM-1b's answer."""

from collections.abc import Collection, Iterator
from typing import Protocol

import torch
from torch import Tensor

from esm1b.model.encoder import Encoder, initialise
from esm1b.model.packed import PackedTokens


class Network(Protocol):
    """A protein language model over the 33 tokens, in evaluation mode.

    Attributes:
        layers: number of transformer layers.
        width: width of the representations.
        heads: number of attention heads of a layer.
        device: device of the weights.
    """

    layers: int
    width: int
    heads: int
    device: torch.device

    def logits(self, packed: PackedTokens, positions: Tensor | None = None) -> Tensor:
        """Return logits `[T, 33]` of T tokens, or `[P, 33]` at `positions`, int64 `[P]`."""

    def representations(self, packed: PackedTokens, layers: Collection[int]) -> dict[int, Tensor]:
        """Return `[T, width]` by layer: 0 is the input of the stack, the last leaves the norm."""

    def attention_maps(self, packed: PackedTokens) -> Iterator[Tensor]:
        """Yield, layer by layer, the float32 maps `[heads, T, T]` of `packed`, one sequence.

        Rows are queries, special tokens included.
        """

    def untrained(self, seed: int) -> "Network":
        """Return a network of the same shape with the weights that start a training."""


class EncoderNetwork:
    """ESM-1b's or ESM-1v's encoder as a `Network`.

    Args:
        encoder: encoder on its device, in its precision.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder.eval()
        self.layers, self.width = encoder.shape.layers, encoder.shape.width
        self.heads = encoder.shape.heads
        self.device = encoder.embed_tokens.weight.device

    @torch.no_grad()
    def logits(self, packed: PackedTokens, positions: Tensor | None = None) -> Tensor:
        """Return logits; see `Network`."""
        logits: Tensor = self.encoder(packed, positions)
        return logits

    @torch.no_grad()
    def representations(self, packed: PackedTokens, layers: Collection[int]) -> dict[int, Tensor]:
        """Return representations; see `Network`."""
        return self.encoder.representations(packed, layers)

    @torch.no_grad()
    def attention_maps(self, packed: PackedTokens) -> Iterator[Tensor]:
        """Yield attention maps; see `Network`."""
        for maps in self.encoder.attention_maps(packed):
            yield maps[0]

    def untrained(self, seed: int) -> "EncoderNetwork":
        """Return an untrained network; see `Network`."""
        encoder = Encoder(self.encoder.shape, attention=self.encoder.attention)
        initialise(encoder, seed)
        return EncoderNetwork(encoder.to(self.device, self.encoder.embed_tokens.weight.dtype))
