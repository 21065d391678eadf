from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from esm1b.batches.order import SequenceOrder
from esm1b.batches.packing import share_out


@pytest.mark.parametrize(
    ("tokens", "micro_batch", "processes", "rounds"),
    [(8192, 4096, 1, 2), (8193, 4096, 1, 3), (8192, 4096, 2, 1), (8193, 4096, 2, 2), (0, 1, 4, 1)],
)
def test_rounds(tokens: int, micro_batch: int, processes: int, rounds: int) -> None:
    shares = share_out(
        np.array([3]),
        micro_batch_tokens=micro_batch,
        maximum_tokens=3,
        width=1,
        processes=processes,
        mean_tokens=tokens,
    )
    assert len(shares) == rounds * processes


def test_literal_shares() -> None:
    # At width 1, n tokens weigh n (6 + n): 1,435, 520, 616, 616 and 4,891 here.
    tokens = np.array([35, 20, 22, 22, 67])
    in_two = partial(share_out, tokens, micro_batch_tokens=83, width=1)
    shares = in_two(maximum_tokens=100)
    assert [share.tolist() for share in shares] == [[4], [0, 1, 2, 3]]
    # The other four have 99 tokens: where 90 fit, the lightest goes with the longest.
    shares = in_two(maximum_tokens=7)
    assert [share.tolist() for share in shares] == [[1, 4], [0, 2, 3]]
    with pytest.raises(ValueError, match="166 tokens in 2 micro-batches; expected them to fit 83"):
        in_two(maximum_tokens=0)


@given(st.lists(st.integers(3, 1024), max_size=50), st.integers(1, 9), st.integers(1, 2000))
def test_every_sequence_is_in_one_micro_batch(
    tokens: list[int], micro_batches: int, width: int
) -> None:
    shares = share_out(
        np.array(tokens, dtype=np.int64),
        micro_batch_tokens=50 * 1024,
        maximum_tokens=1024,
        width=width,
        processes=micro_batches,
    )
    assert len(shares) == micro_batches
    assert sorted(np.concatenate(shares).tolist()) == list(range(len(tokens)))
    assert all((np.diff(share) > 0).all() for share in shares)


@st.composite
def updates(draw: st.DrawFn) -> tuple[list[int], int, int, int]:
    """Return tokens of an update's sequences, micro_batch_tokens, processes, and B."""
    maximum = draw(st.integers(3, 1024))
    tokens = draw(st.lists(st.integers(3, maximum), min_size=1, max_size=80))
    # An update exceeds B by less than its last sequence.
    mean = draw(st.integers(sum(tokens) - tokens[-1] + 1, 2 * sum(tokens)))
    return tokens, draw(st.integers(1, 2000)), draw(st.integers(1, 5)), mean


@given(updates(), st.integers(1, 2000))
def test_no_micro_batch_exceeds_the_capacity(
    update: tuple[list[int], int, int, int], width: int
) -> None:
    tokens, micro_batch_tokens, processes, mean = update
    shares = share_out(
        np.array(tokens),
        micro_batch_tokens=micro_batch_tokens,
        maximum_tokens=max(tokens),
        width=width,
        processes=processes,
        mean_tokens=mean,
    )
    largest = max(np.array(tokens)[share].sum() for share in shares)
    assert largest <= micro_batch_tokens + max(tokens)
    assert sorted(np.concatenate(shares).tolist()) == list(range(len(tokens)))


def uniref_like_lengths(sequences: int) -> NDArray[np.int32]:
    """Return lengths with UniRef50's mean of 286.5 residues and a log-normal spread of 0.7."""
    generator = np.random.default_rng(0)
    drawn = generator.lognormal(np.log(286.5) - 0.7**2 / 2, 0.7, size=sequences)
    return np.clip(drawn, 11, 35_213).astype(np.int32)


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
@pytest.mark.parametrize("micro_batch_tokens", [4096, 16_384, 131_072])
@pytest.mark.parametrize("width", [320, 1280])
def test_real_updates_are_balanced(processes: int, micro_batch_tokens: int, width: int) -> None:
    lengths = uniref_like_lengths(50_000)
    order = SequenceOrder(lengths, crop_residues=1022, tokens_per_update=131_072, seed=1)
    tokens = np.minimum(lengths, 1022).astype(np.int64) + 2
    for number in range(0, 120, 6):  # an epoch has 113
        held = tokens[order.update(number).sequences]
        shares = share_out(
            held,
            micro_batch_tokens=micro_batch_tokens,
            maximum_tokens=1024,
            width=width,
            processes=processes,
            mean_tokens=131_072,
        )
        if processes * micro_batch_tokens <= 131_072:
            assert len(shares) * micro_batch_tokens == 131_072
        weights = held * (6 * width + held)
        loads = np.array([weights[share].sum() for share in shares])
        assert loads.max() / loads.mean() <= 1.05
        sizes = np.array([held[share].sum() for share in shares])
        assert sizes.max() <= micro_batch_tokens + 1024
        assert sizes.max() <= 1.05 * sizes.mean()


def test_attention_counts_in_the_balance() -> None:
    # At width 1, 100 tokens weigh 100 * 106 = 10,600 and 10 tokens 10 * 16 = 160.
    tokens = np.array([10] * 60 + [100])
    shares = share_out(tokens, micro_batch_tokens=350, maximum_tokens=1000, width=1)
    assert [len(share) for share in shares] == [1, 60]
