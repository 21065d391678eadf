"""What a model in use asks of its network, and ESM-1b's answer."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from esm1b.model.encoder import Encoder, initialise
from esm1b.model.packed import PackedTokens


@dataclass(frozen=True, kw_only=True)
class NetworkOutput:
    """What a network computed for T tokens.

    Attributes:
        representations: `[T, width]` by layer: 0 is the input of the stack, the last is what leaves
            the final layer norm.
        logits: `[T, 33]`, or `[masked, 33]` where positions were named; None if not asked for.
    """

    representations: dict[int, Tensor]
    logits: Tensor | None


class Network(Protocol):
    """A protein language model over the 33 tokens, in evaluation mode."""

    @property
    def layers(self) -> int:
        """Transformer layers."""

    @property
    def width(self) -> int:
        """Width of the representations."""

    @property
    def heads(self) -> int:
        """Attention heads of a layer."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    def run(
        self,
        packed: PackedTokens,
        *,
        representation_layers: Collection[int] = (),
        logits: bool = False,
        masked_positions: Tensor | None = None,
    ) -> NetworkOutput:
        """Run on sequences end to end; `masked_positions`, int64 `[masked]`, narrows the logits."""

    def attention_maps(self, packed: PackedTokens) -> Iterator[Tensor]:
        """Yield, layer by layer, the float32 maps `[heads, tokens, tokens]` of one sequence.

        `packed` holds that sequence alone; rows are queries, special tokens included.
        """

    def untrained(self, seed: int) -> "Network":
        """Return a network of the same shape as its training would start it."""


class EncoderNetwork:
    """ESM-1b's or ESM-1v's encoder.

    Args:
        encoder: on its device, in its precision.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder.eval()

    @property
    def layers(self) -> int:
        """Transformer layers."""
        return self.encoder.shape.layers

    @property
    def width(self) -> int:
        """Width of the representations."""
        return self.encoder.shape.width

    @property
    def heads(self) -> int:
        """Attention heads of a layer."""
        return self.encoder.shape.heads

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.encoder.embed_tokens.weight.device

    @torch.no_grad()
    def run(
        self,
        packed: PackedTokens,
        *,
        representation_layers: Collection[int] = (),
        logits: bool = False,
        masked_positions: Tensor | None = None,
    ) -> NetworkOutput:
        """Run on sequences end to end; `masked_positions`, int64 `[masked]`, narrows the logits."""
        encoded = self.encoder.encode(
            packed, representation_layers=representation_layers, positions=masked_positions
        )
        return NetworkOutput(
            representations=encoded.representations,
            logits=self.encoder.logits(encoded.final) if logits else None,
        )

    @torch.no_grad()
    def attention_maps(self, packed: PackedTokens) -> Iterator[Tensor]:
        """Yield, layer by layer, the float32 maps `[heads, tokens, tokens]` of one sequence."""
        for maps in self.encoder.attention_maps(packed):
            yield maps[0]

    def untrained(self, seed: int) -> "EncoderNetwork":
        """Return a network of the same shape as its training would start it."""
        encoder = Encoder(self.encoder.shape, attention=self.encoder.attention)
        initialise(encoder, seed)
        weight = self.encoder.embed_tokens.weight
        return EncoderNetwork(encoder.to(weight.device, weight.dtype))
