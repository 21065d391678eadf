import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esm1b.model.attention import plan_attention

CPU = torch.device("cpu")


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_flat_tokens_survive_the_padded_layout(lengths: list[int]) -> None:
    plan = plan_attention(lengths, CPU)
    tokens = torch.arange(sum(lengths))
    assert torch.equal(tokens[plan.to_padded][plan.to_flat], tokens)
    assert sum(group.sequences for group in plan.groups) == len(lengths)
    assert sum(group.sequences * group.length for group in plan.groups) == len(plan.to_padded)
    # Nothing shorter than 85 % of its group's longest, so at most 1 / 0.85 places per token.
    assert len(plan.to_padded) <= sum(lengths) / 0.85


def test_groups_of_similar_length() -> None:
    plan = plan_attention([100, 85, 84, 10, 10], CPU)
    sizes = [(group.start, group.sequences, group.length) for group in plan.groups]
    assert sizes == [(0, 2, 100), (200, 1, 84), (284, 2, 10)]
    first, second, third = (group.key_mask for group in plan.groups)
    assert first is not None
    assert first.shape == (2, 1, 1, 100)
    assert first.sum((1, 2, 3)).tolist() == [100, 85]
    assert second is None
    assert third is None
