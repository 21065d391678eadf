from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from esm1b.model.attention_plan import PaddedPlan
from esm1b.model.rotary import PairedLinear, RotaryPositions, positions_of, rotary_frequencies
from esm1b.model.shape import Positions

CPU = torch.device("cpu")


def test_frequencies() -> None:
    exact = [1.0, 0.1, 0.01, 0.001]
    assert rotary_frequencies("rotary", 8).tolist() == pytest.approx(exact, rel=1e-7)
    halves = [1.0, 0.0999755859375, 0.01000213623046875, 0.0010004043579101562]
    assert rotary_frequencies("rotary-fp16", 8).tolist() == halves
    quarters = [1.0, 0.10009765625, 0.010009765625, 0.00099945068359375]
    assert rotary_frequencies("rotary-bf16", 8).tolist() == quarters


@pytest.mark.parametrize("positions", ["rotary", "rotary-fp16", "rotary-bf16"])
@pytest.mark.parametrize("width", [8, 16, 20, 24, 64, 128])
def test_positions_are_known_by_their_frequencies(positions: Positions, width: int) -> None:
    frequencies = rotary_frequencies(positions, width)
    assert positions_of(frequencies) == positions
    other = frequencies.clone()
    other[1] *= 1 + 1e-5
    assert positions_of(other) is None


def test_another_processor_may_round_in_another_way() -> None:
    frequencies = rotary_frequencies("rotary", 64)
    assert positions_of(torch.nextafter(frequencies, torch.tensor(2.0))) == "rotary"


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 900))
def test_scores_depend_on_the_distance_alone(query: int, key: int, shift: int) -> None:
    states = torch.linspace(-1, 2, 24, dtype=torch.float64).reshape(2, 1, 12)
    rotary = RotaryPositions("rotary", 12)
    scores = []
    for offsets in ((query, key), (query + shift, key + shift)):
        plan = rotary(PaddedPlan.of([2], CPU), torch.tensor(offsets), torch.float64)
        first, second = plan.queries.turned(states)
        scores.append(float((first * second).sum()))
    assert scores[1] == pytest.approx(scores[0], abs=1e-10)


def test_a_turn_is_the_complex_product() -> None:
    rotary = RotaryPositions("rotary", 4)
    plan = rotary(PaddedPlan.of([2], CPU), torch.tensor([0, 3]), torch.float64)
    states = torch.tensor([[[1.0, 2, 3, 4]]] * 2, dtype=torch.float64)
    still, turned = plan.keys.turned(states)[:, 0].tolist()
    assert still == [1.0, 2.0, 3.0, 4.0]
    # 1 + 2i times e^(3i), and 3 + 4i times e^(0.03i)
    assert turned == pytest.approx([-1.2722325, -1.8388650, 2.8786680, 4.0881867], abs=1e-6)
    # in real numbers
    compiled: Any = torch.compile(plan.keys.turned, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(states), plan.keys.turned(states), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("tokens", [1, 11, 12, 40])
def test_numbers_that_turn_together_are_neighbours(tokens: int) -> None:
    linear = PairedLinear(12, 2)
    states = torch.randn(tokens, 12, generator=torch.Generator().manual_seed(0))
    expected = functional.linear(states, linear.weight, linear.bias)
    order = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    for is_training in (True, False):
        with torch.set_grad_enabled(is_training):
            torch.testing.assert_close(linear(states), expected[:, order])


def test_bf16_is_rounded_once() -> None:
    rotary = RotaryPositions("rotary", 64).bfloat16()
    assert rotary.frequencies.dtype == torch.float32
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1000, 2, 64, generator=generator).bfloat16()
    offsets = torch.arange(1000)
    rough = rotary(PaddedPlan.of([1000], CPU), offsets, torch.bfloat16).keys.turned(states)
    exact = rotary(PaddedPlan.of([1000], CPU), offsets, torch.float64).keys
    expected = exact.turned(states.double())
    assert rough.dtype == torch.bfloat16
    # half of the last of 8 bits, and what angles of 1,000 leave of float32
    assert ((rough.double() - expected).abs() <= 2**-8 * expected.abs() + 2e-4).all()
