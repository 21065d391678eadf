import random

import pytest

from esm1b.pretraining.metrics.metrics_file import RECENT_LOSSES, is_spike

# median 2.5, median absolute deviation 0.1: a standard deviation of 0.14826
ALTERNATING = [2.4, 2.6] * 50


@pytest.mark.parametrize(
    ("loss", "spike"), [(2.6, False), (3.38, False), (3.4, True), (1.0, False), (0.0, False)]
)
def test_six_standard_deviations(loss: float, spike: bool) -> None:
    # 2.5 + 6 x 0.14826 = 3.38956
    assert is_spike(loss, ALTERNATING) is spike


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_no_finite_number_is_a_spike(loss: float) -> None:
    assert is_spike(loss, [])


def test_the_first_losses_are_not_judged() -> None:
    assert not is_spike(100.0, ALTERNATING[:19])
    assert is_spike(100.0, ALTERNATING[:20])


def test_only_the_last_hundred_count() -> None:
    assert not is_spike(2.6, [1.0, 1.0001] * 500 + ALTERNATING)
    assert RECENT_LOSSES == 100


def test_a_flat_curve() -> None:
    # 0.2 % of 2.5 is 0.005, six times that 0.03
    assert not is_spike(2.529, [2.5] * 100)
    assert is_spike(2.531, [2.5] * 100)


def test_spikes_before_hide_none() -> None:
    # median 2.5, median absolute deviation 0.1 as without them
    assert is_spike(3.5, [2.4, 2.5, 2.6] * 25 + [30.0, float("nan")] * 10)


@pytest.mark.parametrize("seed", range(20))
def test_falling_noisy_losses_have_none(seed: int) -> None:
    noise = random.Random(seed)
    losses = [2 + 1.5 * 0.99**step + noise.gauss(0, 0.03) for step in range(300)]
    assert not any(is_spike(losses[step], losses[:step]) for step in range(300))
