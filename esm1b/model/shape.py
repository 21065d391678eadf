"""The size of the network."""

from dataclasses import dataclass
from typing import Literal

from esm1b.alphabet import PAD, TOKENS

Positions = Literal["learned", "rotary", "rotary-fp16", "rotary-bf16"]
"""A learned table, or rotations by frequencies in float32, or rounded to fp16 (released ESM-2), or
to fp16 and then bf16 (those saved in bf16)."""


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """The size and kind of the network; the defaults are esm1b_t33_650M_UR50S.

    ESM-1v has no layer norm before the layers; ESM-2 has none either, and rotary positions.

    Attributes:
        maximum_tokens: most tokens of a sequence, `<cls>` and `<eos>` included.
        layer_norm_before: True for a layer norm before the first layer.
    """

    layers: int = 33
    width: int = 1280
    heads: int = 20
    feed_forward: int = 5120
    maximum_tokens: int = 1024
    layer_norm_before: bool = True
    positions: Positions = "learned"

    @property
    def name(self) -> str:
        """Name of the published models of this kind."""
        if self.is_rotary:
            return "ESM-2"
        return "ESM-1b" if self.layer_norm_before else "ESM-1v"

    @property
    def is_rotary(self) -> bool:
        """True for rotary positions."""
        return self.positions != "learned"

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.width // self.heads

    @property
    def position_rows(self) -> int:
        """Rows of the position table: two before the first token's hold no position."""
        return 0 if self.is_rotary else self.maximum_tokens + PAD + 1

    def parameters(self) -> int:
        """Return the number of parameters of the language model, without the contact head."""
        width, hidden = self.width, self.feed_forward
        attention = 4 * (width * width + width)
        layer = attention + 2 * width * hidden + hidden + width + 2 * 2 * width
        embeddings = (len(TOKENS) + self.position_rows) * width
        norms = 2 * width * (2 if self.layer_norm_before else 1)
        head = width * width + width + 2 * width + len(TOKENS)
        return embeddings + norms + self.layers * layer + head
