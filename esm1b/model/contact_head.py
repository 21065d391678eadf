"""The contact head: a logistic regression over the attention maps of all heads."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


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
        """Whether any coefficient is not zero."""
        return bool(self.coefficients.any())

    def probabilities(self, layers: Iterable[Tensor]) -> Tensor:
        """Return the probability of a contact, `[length, length]`, symmetric.

        Args:
            layers: a layer at a time, attention maps `[heads, length, length]` without the rows and
                columns of `<cls>` and `<eos>`.

        Raises:
            ValueError: there are more or fewer heads than coefficients.
        """
        logits: Tensor | None = None
        channel = 0
        for maps in layers:
            coefficients = self.coefficients[channel : channel + len(maps)].to(maps)
            channel += len(maps)
            # APC of the symmetrised maps: a - row sum * column sum / sum, and both sums are equal.
            symmetric = maps + maps.transpose(-1, -2)
            sums = symmetric.sum(-1)
            total = sums.sum(-1)
            expected = torch.einsum("hi,hj->ij", sums * (coefficients / total)[:, None], sums)
            weighted = torch.einsum("h,hij->ij", coefficients, symmetric) - expected
            logits = weighted if logits is None else logits + weighted
        if logits is None or channel != len(self.coefficients):
            raise ValueError(f"{channel} heads; expected {len(self.coefficients)}")
        return torch.sigmoid(logits + self.intercept.to(logits))
