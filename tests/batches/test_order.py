from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esm1b.batches.order import SequenceOrder

LENGTHS = np.random.default_rng(0).integers(1, 300, size=997).astype(np.int32)


def order_of(
    lengths: list[int] | np.ndarray, tokens_per_update: int, seed: int = 1
) -> SequenceOrder:
    return SequenceOrder(
        np.asarray(lengths, dtype=np.int32),
        crop_residues=200,
        tokens_per_update=tokens_per_update,
        seed=seed,
    )


def updates_of(order: SequenceOrder, numbers: range) -> list[list[tuple[int, int]]]:
    """Return the (epoch, sequence) pairs of each update."""
    held = [order.update(number) for number in numbers]
    return [list(zip(u.epochs.tolist(), u.sequences.tolist(), strict=True)) for u in held]


def test_tokens_of_an_epoch() -> None:
    order = order_of([1, 200, 5000], 100)
    # A sequence counts its residues, 200 at most, and <cls> and <eos>.
    assert order.tokens_per_epoch == 3 + 202 + 202
    assert order.epoch_at(407) == 100.0


def test_pinned_order() -> None:
    """Changing the order would change every run: these values stay."""
    order = order_of([10, 20, 30, 40, 50, 60, 70], 100)
    assert updates_of(order, range(6)) == [
        [(0, 6), (0, 1), (0, 4)],
        [(0, 2), (0, 3)],
        [(0, 5), (0, 0), (1, 2)],
        [(1, 1), (1, 6)],
        [(1, 0), (1, 5), (1, 3)],
        [(1, 4), (2, 3)],
    ]
    assert order_of(LENGTHS, 131_072).update(3).sequences[:8].tolist() == [
        532,
        689,
        2,
        783,
        603,
        287,
        629,
        392,
    ]


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=40),
    tokens_per_update=st.integers(1, 3000),
    seed=st.integers(0, 2**63 - 1),
)
def test_every_sequence_once_in_every_epoch(
    lengths: list[int], tokens_per_update: int, seed: int
) -> None:
    order = order_of(lengths, tokens_per_update, seed)
    epochs = 3
    enough = -(-epochs * order.tokens_per_epoch // tokens_per_update)
    seen = [pair for update in updates_of(order, range(enough)) for pair in update]
    within = [pair for pair in seen if pair[0] < epochs]
    assert seen[: len(within)] == within  # epochs are laid end to end
    assert [epoch for epoch, _ in within] == sorted(epoch for epoch, _ in within)
    assert sorted(within) == [(e, s) for e in range(epochs) for s in range(len(lengths))]


def test_brute_force_over_sizes_that_divide_nothing() -> None:
    order = order_of(LENGTHS, 4099)
    tokens = np.minimum(LENGTHS, 200) + 2
    place = 0  # of the first token of the next sequence, counted from the start of the run
    updates = iter(updates_of(order, range(100)))
    for number, update in enumerate(updates):
        for _, sequence in update:
            assert number * 4099 <= place < (number + 1) * 4099
            place += int(tokens[sequence])
    assert place >= 2 * order.tokens_per_epoch


def test_epochs_are_shuffled_anew() -> None:
    order = order_of(LENGTHS, order_of(LENGTHS, 1).tokens_per_epoch)
    first, second = (order.update(number).sequences.tolist() for number in (0, 1))
    assert sorted(first) == sorted(second) == list(range(997))
    assert first != second
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 10
    assert order_of(LENGTHS, order.tokens_per_epoch, seed=2).update(0).sequences.tolist() != first
    # No place of the corpus is preferred: half of it has about half of the first half.
    assert abs(np.mean(np.array(first[:498]) < 498) - 0.5) < 0.1


def test_updates_can_be_asked_in_any_order() -> None:
    expected = updates_of(order_of(LENGTHS, 10_000), range(40))
    order = order_of(LENGTHS, 10_000)
    numbers = np.random.default_rng(1).permutation(40).tolist()
    assert [updates_of(order, range(n, n + 1))[0] for n in numbers] == [
        expected[n] for n in numbers
    ]
    far = order_of(LENGTHS, 10_000).update(500_000)
    assert len(far.sequences) > 0
    assert far.epochs[0] == 500_000 * 10_000 // order.tokens_per_epoch


def test_mean_tokens_of_an_update() -> None:
    order = order_of(LENGTHS, 5000)
    tokens = np.minimum(LENGTHS, 200) + 2
    sizes = np.array([tokens[order.update(number).sequences].sum() for number in range(200)])
    assert sizes.mean() == pytest.approx(5000, abs=2)  # off by one sequence in 200 updates
    assert abs(sizes - 5000).max() <= 202


def test_a_seed_decides_alone() -> None:
    lengths = [10, 20, 30, 40, 50]
    assert updates_of(order_of(lengths, 60), range(9)) == updates_of(
        order_of(lengths, 60), range(9)
    )


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=40),
    tokens_per_update=st.integers(1, 1500),
    updates=st.integers(0, 8),
)
def test_sequences_seen_are_what_updates_hold(
    lengths: list[int], tokens_per_update: int, updates: int
) -> None:
    order = order_of(lengths, tokens_per_update)
    held = [pair for update in updates_of(order, range(updates)) for pair in update]
    assert order.sequences_seen(updates) == len(held)
    whole_epochs, sequences = divmod(len(held), len(lengths))
    # The sequences of the epoch that has begun are the first of its order.
    begun = order.permuted(whole_epochs, np.arange(sequences)).tolist()
    assert [sequence for epoch, sequence in held if epoch == whole_epochs] == begun


def test_literal_sequences_seen() -> None:
    # Updates of 100 tokens; an epoch has 10 + 20 + ... + 70 + 7 * 2 = 294.
    order = order_of([10, 20, 30, 40, 50, 60, 70], 100)
    assert [order.sequences_seen(updates) for updates in (0, 1, 2, 3, 6)] == [0, 3, 5, 8, 15]
    # The last sequence of an epoch begins before the update ends, though it ends after it.
    assert order_of([97], 50).sequences_seen(1) == 1


@pytest.mark.parametrize("sequences", [997, 4096, 4097, 12_345])
def test_after_one_epoch_every_sequence_was_seen_once(sequences: int) -> None:
    """Brute force, over more sequences than one block and sizes that divide nothing."""
    generator = np.random.default_rng(sequences)
    lengths = generator.integers(1, 300, size=sequences).astype(np.int32)
    order = order_of(lengths, 7919)
    seen: Counter[int] = Counter()
    number = 0
    while len(seen) < sequences or order.sequences_seen(number) < sequences:
        held = order.update(number)
        seen.update(held.sequences[held.epochs == 0].tolist())
        number += 1
    assert number == -(-order.tokens_per_epoch // 7919)
    assert set(seen.values()) == {1}
    assert sorted(seen) == list(range(sequences))
    # and the tokens before each update are those of the sequences before it
    place = 0
    tokens = np.minimum(lengths, 200) + 2
    for update in range(number - 1):
        held = order.update(update)
        first_tokens = place + np.cumsum(tokens[held.sequences]) - tokens[held.sequences]
        assert first_tokens[0] >= update * 7919
        assert first_tokens[-1] < (update + 1) * 7919
        place += int(tokens[held.sequences].sum())


def test_threads_share_an_order() -> None:
    expected = updates_of(order_of(LENGTHS, 10_000), range(60))
    order = order_of(LENGTHS, 10_000)
    with ThreadPoolExecutor(8) as executor:
        found = list(executor.map(lambda n: updates_of(order, range(n, n + 1))[0], range(60)))
    assert found == expected


def test_lengths_are_not_copied() -> None:
    lengths = np.full(10_000, 5000, dtype=np.int32)
    order = SequenceOrder(lengths, crop_residues=1022, tokens_per_update=102_400, seed=1)
    assert order.tokens_per_epoch == 10_240_000
    assert len(order.update(50).sequences) == 100
    assert any(value is lengths for value in vars(order).values())
