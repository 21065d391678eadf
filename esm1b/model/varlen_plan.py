"""Flash attention over flat tokens; see `esm1b.model.attention_plan`."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.attention.varlen import varlen_attn


@dataclass(frozen=True, kw_only=True)
class VarlenPlan:
    """Flash attention over flat tokens, on CUDA in bf16 or fp16.

    Attributes:
        cumulative_lengths: int32 `[sequences + 1]`, from 0 to T.
        longest: at least the tokens of the longest sequence.
    """

    cumulative_lengths: Tensor
    longest: int

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return `[T, H, D]`."""
        ends = self.cumulative_lengths
        # Only what the releases from 2.10 on share: further arguments were renamed or added.
        context = varlen_attn(query, key, value, ends, ends, self.longest, self.longest)
        assert isinstance(context, Tensor)
        return context

    def at(self, positions: Tensor) -> None:
        """Return None: one layer's attention is little beside the rest, and shapes stay fixed."""
