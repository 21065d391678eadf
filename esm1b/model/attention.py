"""Multi-head self-attention on flat tokens."""

from torch import Tensor, nn

from esm1b.model.attention_plan import AttentionPlan


class SelfAttention(nn.Module):
    """Multi-head self-attention with separate, biased projections and no dropout.

    As facebookresearch/esm, `esm/multihead_attention.py`; queries are scaled by
    `head_width ** -0.5`, here within the plan.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, plan: AttentionPlan, positions: Tensor | None = None) -> Tensor:
        """Return `[T, width]` from `x` of the same shape; `[P, width]` at P `positions` only."""
        plan_at = None if positions is None else plan.at(positions)
        asking = x if positions is None or plan_at is None else x.index_select(0, positions)
        query, key, value = (
            projection(states).unflatten(-1, (self.heads, -1))
            for projection, states in ((self.q_proj, asking), (self.k_proj, x), (self.v_proj, x))
        )
        context = (plan_at or plan).attend(query, key, value).flatten(1)
        if positions is not None and plan_at is None:
            context = context.index_select(0, positions)
        output: Tensor = self.out_proj(context)
        return output
