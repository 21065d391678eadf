import pytest

from esm1b.config import PretrainingConfig
from esm1b.pretraining.recipe import learning_rate


@pytest.mark.parametrize(
    ("update", "rate"),
    [
        # ESM-1b: 1e-4 after 16,000 updates of warmup, then inverse square root to 500,000
        (1, 6.25e-9),
        (8_000, 5e-5),
        (15_999, 9.999375e-5),
        (16_000, 1e-4),
        (16_001, 9.999687514647741e-5),
        (64_000, 5e-5),
        (500_000, 1.7888543819998318e-5),
    ],
)
def test_the_published_schedule(update: int, rate: float) -> None:
    recipe = PretrainingConfig(learning_rate=1e-4, warmup_updates=16_000)
    assert learning_rate(recipe, update) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(
    ("update", "rate"),
    [
        # ESM-2: 4e-4 after 2,000 updates, a tenth of it at 450,000 and until the end
        (1, 2e-7),
        (2_000, 4e-4),
        (2_001, 4e-4 - 3.6e-4 / 448_000),
        (226_000, 2.2e-4),
        (449_999, 4e-5 + 3.6e-4 / 448_000),
        (450_000, 4e-5),
        (500_000, 4e-5),
    ],
)
def test_linear_decay(update: int, rate: float) -> None:
    recipe = PretrainingConfig(
        learning_rate=4e-4,
        warmup_updates=2_000,
        updates=500_000,
        learning_rate_decay="linear",
    )
    assert learning_rate(recipe, update) == pytest.approx(rate, rel=1e-12)


def test_a_warmup_of_one_update() -> None:
    recipe = PretrainingConfig(learning_rate=1.0, warmup_updates=1)
    assert [learning_rate(recipe, update) for update in (1, 4, 100)] == [1.0, 0.5, 0.1]
