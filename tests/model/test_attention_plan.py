from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from esm1b.errors import UserError
from esm1b.model.attention_plan import (
    AttentionPath,
    ExplicitPlan,
    PaddedPlan,
    choose_path,
)
from esm1b.model.encoder import Encoder
from esm1b.model.packed import PackedTokens, pack_sequences
from esm1b.model.shape import EncoderShape
from tests.conftest import random_encoder

CPU = torch.device("cpu")
SHAPE = EncoderShape(layers=3, width=16, heads=2, feed_forward=24, maximum_tokens=64)
SHAPES = (SHAPE, replace(SHAPE, positions="rotary", layer_norm_before=False))
KINDS = ("ESM-1b", "ESM-2")


def reference_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    longest_query: int,
    longest_key: int,
) -> Tensor:
    """Attend as torch.nn.attention.varlen does on CUDA, by a mask over all pairs of tokens."""
    assert query_ends.dtype == key_ends.dtype == torch.int32
    assert longest_query == longest_key
    places = torch.arange(len(query), dtype=torch.int32)
    owner = (places[:, None] >= query_ends[1:]).sum(1)
    scores = torch.einsum("qhd,khd->hqk", query, key) * query.shape[-1] ** -0.5
    scores = scores.masked_fill(owner[:, None] != owner, float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value)


@pytest.fixture
def varlen_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the varlen path run on CPU, by the reference."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", reference_varlen)

    def choose(path: AttentionPath, **where: Any) -> AttentionPath:
        return path

    monkeypatch.setattr("esm1b.model.encoder.choose_path", choose)


def packed_of(lengths: list[int]) -> PackedTokens:
    generator = np.random.default_rng(len(lengths))
    return pack_sequences(
        [generator.integers(4, 29, size=n).astype(np.uint8) for n in lengths], CPU
    )


def states(packed: PackedTokens) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    size = (len(packed.tokens), 2, 8)
    return [torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(3)]


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_flat_tokens_survive_the_padded_layout(lengths: list[int]) -> None:
    plan = PaddedPlan.of(lengths, CPU)
    tokens = torch.arange(sum(lengths))[:, None, None]
    layout = plan.keys
    padded = torch.cat([rows.transpose(1, 2).flatten(0, 1) for rows in layout.rows(tokens)])
    assert torch.equal(layout.flat(padded), tokens)
    assert sorted(chain(*plan.groups)) == list(range(len(lengths)))
    assert [rows for rows, _ in layout.shapes] == [len(group) for group in plan.groups]
    assert sum(rows * width for rows, width in layout.shapes) == len(padded)
    # Nothing shorter than 90 % of its group's longest, so at most 1 / 0.9 places per token.
    assert len(padded) <= sum(lengths) / 0.9


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_all_paths_agree(lengths: list[int]) -> None:
    packed = packed_of(lengths)
    ends = packed.cumulative_lengths
    query, key, value = states(packed)
    expected = reference_varlen(query, key, value, ends, ends, packed.longest, packed.longest)
    padded = PaddedPlan.of(packed.lengths, CPU)
    maps: list[list[Tensor]] = []
    for plan in (padded, ExplicitPlan(padded=padded, observe=maps.append)):
        torch.testing.assert_close(plan.attend(query, key, value), expected, rtol=1e-12, atol=1e-12)
    assert [m.shape for m in maps[0]] == [(2, n, n) for n in packed.lengths]
    for weights in maps[0]:
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.data())
def test_some_tokens_attend_as_they_do_among_all(lengths: list[int], data: st.DataObject) -> None:
    packed = packed_of(lengths)
    chosen = data.draw(st.lists(st.integers(0, len(packed.tokens) - 1), max_size=20))
    positions = torch.tensor(chosen, dtype=torch.int64)
    plan = PaddedPlan.of(packed.lengths, CPU)
    query, key, value = (state.requires_grad_() for state in states(packed))
    expected = plan.attend(query, key, value)[positions]
    plan_at = plan.at(positions)
    assert plan_at is not None
    attended = plan_at.attend(query[positions], key, value)
    torch.testing.assert_close(attended, expected, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(attended.square().sum(), (query, key, value))
    wanted = torch.autograd.grad(expected.square().sum(), (query, key, value))
    torch.testing.assert_close(gradients, wanted, rtol=1e-11, atol=1e-11)


def test_gradients_in_bf16_are_those_of_float64_but_for_rounding() -> None:
    packed = packed_of([3, 60, 64, 1])
    plan = PaddedPlan.of(packed.lengths, CPU)
    gradients = []
    for dtype in (torch.float64, torch.bfloat16):
        # the same numbers, which both can hold
        given = [each.bfloat16().to(dtype).requires_grad_() for each in states(packed)]
        context = plan.attend(*given)
        assert context.dtype == dtype
        gradients.append(torch.autograd.grad(context.sum(), given))
    for expected, found in zip(*gradients, strict=True):
        assert found.dtype == torch.bfloat16
        # Attention is in float32: of what it returns only the last of 8 bits is lost.
        torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-6)


@torch.no_grad()
@pytest.mark.usefixtures("varlen_everywhere")
@pytest.mark.parametrize("shape", SHAPES, ids=KINDS)
def test_the_encoder_passes_boundaries_to_varlen(shape: EncoderShape) -> None:
    encoder = random_encoder(shape).double()
    packed = packed_of([5, 31, 1, 12])
    expected = encoder(packed)
    encoder.attention = "varlen"
    torch.testing.assert_close(encoder(packed), expected, rtol=1e-11, atol=1e-11)
    encoder.attention = "explicit"
    torch.testing.assert_close(encoder(packed), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.usefixtures("varlen_everywhere")
@pytest.mark.parametrize("shape", SHAPES, ids=KINDS)
def test_layers_compile_once_for_training_and_once_for_evaluation(shape: EncoderShape) -> None:
    plain = random_encoder(shape)
    compiled = Encoder(shape, attention="varlen")
    compiled.load_state_dict(plain.state_dict())
    torch._dynamo.reset()
    compilations = CompileCounter()
    compiled.compile_layers(backend=compilations)
    for lengths in ([5, 31, 1, 12], [62], [3] * 9, [20, 20]):
        packed = packed_of(lengths)
        filled = packed.filled(capacity=96, sequences=16, longest=64)
        positions = torch.arange(0, len(packed.tokens), 2)
        weights = torch.linspace(-1, 1, 33)
        gradients = []
        for network, batch in ((plain, packed), (compiled, filled)):
            network.zero_grad()
            torch.autograd.backward((network(batch, positions) * weights).sum())
            gradients.append([parameter.grad for parameter in network.parameters()])
        for expected, gradient in zip(*gradients, strict=True):
            assert expected is not None
            assert gradient is not None
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            torch.testing.assert_close(
                compiled(filled, positions), plain(packed, positions), rtol=1e-4, atol=1e-4
            )
    assert compilations.frame_count == 2


def test_where_varlen_runs() -> None:
    cuda = torch.device("cuda")
    assert choose_path("auto", device=CPU, dtype=torch.float32, head_width=64) == "sdpa"
    assert choose_path("auto", device=CPU, dtype=torch.bfloat16, head_width=64) == "sdpa"
    assert choose_path("auto", device=cuda, dtype=torch.float32, head_width=64) == "sdpa"
    assert choose_path("auto", device=cuda, dtype=torch.bfloat16, head_width=60) == "sdpa"
    assert choose_path("auto", device=cuda, dtype=torch.bfloat16, head_width=64) == "varlen"
    assert choose_path("auto", device=cuda, dtype=torch.float16, head_width=8) == "varlen"
    assert choose_path("sdpa", device=cuda, dtype=torch.bfloat16, head_width=64) == "sdpa"
    assert choose_path("explicit", device=CPU, dtype=torch.float32, head_width=5) == "explicit"
    for place, dtype, width, message in (
        (CPU, torch.bfloat16, 64, "the network is on cpu"),
        (cuda, torch.float32, 64, "the network is in float32"),
        (cuda, torch.bfloat16, 60, "heads are 60 wide"),
    ):
        with pytest.raises(UserError, match=message):
            choose_path("varlen", device=place, dtype=dtype, head_width=width)


def test_groups_of_similar_length() -> None:
    plan = PaddedPlan.of([100, 90, 89, 10, 10], CPU)
    assert plan.groups == [[0, 1], [2], [3, 4]]
    assert plan.keys.shapes == [(2, 100), (1, 89), (2, 10)]
    first, second, third = plan.key_masks
    assert first is not None
    assert first.shape == (2, 1, 1, 100)
    assert first.sum((1, 2, 3)).tolist() == [100, 90]
    assert second is None
    assert third is None
