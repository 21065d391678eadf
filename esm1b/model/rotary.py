"""Rotary positions: queries and keys turned by angles that grow with the position.

Source: Su et al. 2021, RoFormer (arXiv 2104.09864), in the order of facebookresearch/esm,
`esm/rotary_embedding.py`: number i of a head's first half turns with number i of the second.

Shapes: T tokens of all sequences, H heads, D width of a head.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from esm1b.model.attention_plan import AttentionPlan
from esm1b.model.shape import Positions

_BASE: Final = 10_000

# What the frequencies are rounded to, one after the other. ESM-2 was trained with all of its
# tensors in fp16 and saved so: at position 1,000 that is up to a quarter of a radian.
_ROUNDINGS: Final[dict[Positions, tuple[torch.dtype, ...]]] = {
    "rotary": (),
    "rotary-fp16": (torch.float16,),
    "rotary-bf16": (torch.float16, torch.bfloat16),
}


def rotary_frequencies(positions: Positions, head_width: int) -> Tensor:
    """Return radians per position, float32 `[D / 2]`: 10,000^(-2 i / D), see `Positions`."""
    # In float32, as fair-esm and transformers compute them: their last bit is theirs.
    frequencies = 1.0 / (_BASE ** (torch.arange(0, head_width, 2).float() / head_width))
    for precision in _ROUNDINGS[positions]:
        frequencies = frequencies.to(precision)
    return frequencies.float()


def positions_of(frequencies: Tensor) -> Positions | None:
    """Return the positions that turn with these frequencies `[D / 2]`, None if there are none.

    Those in float32 may differ by its rounding, which is the processor's.
    """
    for positions in _ROUNDINGS:
        expected = rotary_frequencies(positions, 2 * len(frequencies))
        tolerance = 1e-6 if positions == "rotary" else 0.0
        if torch.allclose(frequencies.float(), expected, rtol=tolerance, atol=0.0):
            return positions
    return None


class PairedLinear(nn.Linear):
    """A projection to heads whose numbers i and D / 2 + i, which turn together, are neighbours.

    Scores do not depend on the order within a head, if it is that of queries and keys alike.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, width)
        self.heads = heads

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (as its base class calls it)
        """Return `[T, W]` from `[T, W]`."""
        # Whichever is smaller is put in order; but the backward pass would keep copies of weights.
        if torch.is_grad_enabled() or len(input) < self.out_features:
            return self._paired(super().forward(input), 1)
        return functional.linear(input, self._paired(self.weight, 0), self._paired(self.bias, 0))

    def _paired(self, tensor: Tensor, dim: int) -> Tensor:
        by_half = torch.unflatten(tensor, dim, (self.heads, 2, -1))
        return by_half.transpose(dim + 1, dim + 2).flatten(dim, dim + 2)


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """Turns of tokens: cosine and sine `[T, 1, D / 2, 2]`, float32 or float64."""

    turns: Tensor

    def turned(self, states: Tensor) -> Tensor:
        """Return `states` `[T, H, D]` in pairs turned, rounded to their precision once."""
        pairs = torch.unflatten(states.to(self.turns.dtype), -1, (-1, 2))
        if torch.compiler.is_compiling():  # real numbers, which alone are fused
            (first, second), (cosines, sines) = pairs.unbind(-1), self.turns.unbind(-1)
            halves = first * cosines - second * sines, second * cosines + first * sines
            turned = torch.stack(halves, dim=-1)
        else:
            product = torch.view_as_complex(pairs) * torch.view_as_complex(self.turns)
            turned = torch.view_as_real(product)
        return turned.flatten(-2).to(states.dtype)

    def at(self, positions: Tensor) -> "Rotation":
        """Return the turns of the tokens at `positions` `[P]`."""
        return Rotation(turns=self.turns[positions])


@dataclass(frozen=True, kw_only=True)
class RotaryPlan:
    """Another plan, whose queries and keys, from `PairedLinear`, are turned first."""

    plan: AttentionPlan
    queries: Rotation
    keys: Rotation

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return `[T, H, D]`, or `[P, H, D]` of a plan that `at` made."""
        return self.plan.attend(self.queries.turned(query), self.keys.turned(key), value)

    def at(self, positions: Tensor) -> "RotaryPlan | None":
        """Return a plan with queries at `positions` `[P]` alone, None if the inner one has none."""
        plan = self.plan.at(positions)
        if plan is None:
            return None
        return replace(self, plan=plan, queries=self.queries.at(positions))


class RotaryPositions(nn.Module):
    """The frequencies on the network's device. They stay in float32 whatever its precision."""

    frequencies: Tensor

    def __init__(self, positions: Positions, head_width: int) -> None:
        super().__init__()
        frequencies = rotary_frequencies(positions, head_width)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, plan: AttentionPlan, offsets: Tensor, dtype: torch.dtype) -> RotaryPlan:
        """Return `plan` for tokens at `offsets` `[T]` and states of `dtype`."""
        dtype = torch.promote_types(dtype, torch.float32)
        angles = (offsets[:, None].to(dtype) * self.frequencies.to(dtype))[:, None]
        rotation = Rotation(turns=torch.stack((angles.cos(), angles.sin()), dim=-1))
        return RotaryPlan(plan=plan, queries=rotation, keys=rotation)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "RotaryPositions":
        # bf16 would turn position 1,000 by radians.
        frequencies = self.frequencies
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch annotates it not
        self.frequencies = frequencies.to(self.frequencies.device)
        return self
