import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm1b.batches.packing import rounds_needed, share_out


@pytest.mark.parametrize(
    ("tokens", "micro_batch", "processes", "rounds"),
    [(8192, 4096, 1, 2), (8193, 4096, 1, 3), (8192, 4096, 2, 1), (8193, 4096, 2, 2), (0, 1, 4, 1)],
)
def test_rounds(tokens: int, micro_batch: int, processes: int, rounds: int) -> None:
    found = rounds_needed(tokens, micro_batch_tokens=micro_batch, processes=processes)
    assert found == rounds


@given(st.lists(st.integers(3, 1024), max_size=50), st.integers(1, 9), st.integers(1, 2000))
def test_every_sequence_is_in_one_micro_batch(
    tokens: list[int], micro_batches: int, width: int
) -> None:
    shares = share_out(np.array(tokens, dtype=np.int64), micro_batches=micro_batches, width=width)
    assert len(shares) == micro_batches
    assert sorted(np.concatenate(shares).tolist()) == list(range(len(tokens)))
    assert all((np.diff(share) > 0).all() for share in shares)


def test_arithmetic_is_balanced() -> None:
    generator = np.random.default_rng(0)
    tokens = np.clip(generator.lognormal(5.5, 0.6, size=400), 30, 1024).astype(np.int64)
    for micro_batches in (2, 3, 8):
        shares = share_out(tokens, micro_batches=micro_batches, width=1280)
        weights = tokens * (6 * 1280 + tokens)
        loads = np.array([weights[share].sum() for share in shares])
        assert loads.max() / loads.mean() <= 1.05


def test_attention_counts_in_the_balance() -> None:
    # At width 1, 100 tokens weigh 100 * 106 = 10,600 and 10 tokens 10 * 16 = 160.
    shares = share_out(np.array([10] * 60 + [100]), micro_batches=2, width=1)
    assert [len(share) for share in shares] == [1, 60]
