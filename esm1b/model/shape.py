"""The size of the network."""

from dataclasses import dataclass

from esm1b.alphabet import PAD, TOKENS


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """The size of the network; the defaults are esm1b_t33_650M_UR50S.

    `maximum_tokens` counts `<cls>` and `<eos>`. `layer_norm_before` is false in ESM-1v.
    """

    layers: int = 33
    width: int = 1280
    heads: int = 20
    feed_forward: int = 5120
    maximum_tokens: int = 1024
    layer_norm_before: bool = True

    @property
    def position_rows(self) -> int:
        """Rows of the position table: two before the first token's hold no position."""
        return self.maximum_tokens + PAD + 1

    def parameters(self) -> int:
        """Return the number of parameters of the language model, without the contact head."""
        width, hidden = self.width, self.feed_forward
        attention = 4 * (width * width + width)
        layer = attention + 2 * width * hidden + hidden + width + 2 * 2 * width
        embeddings = (len(TOKENS) + self.position_rows) * width
        norms = 2 * width * (2 if self.layer_norm_before else 1)
        head = width * width + width + 2 * width + len(TOKENS)
        return embeddings + norms + self.layers * layer + head
