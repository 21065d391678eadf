from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from esm1b.batches.order import SequenceOrder, UpdateSequences
from esm1b.pretraining.audit.times_seen import audit, audit_text
from esm1b.pretraining.skipped_updates import SkippedUpdate

LENGTHS = np.random.default_rng(0).integers(1, 300, size=97).astype(np.int32)


def order_of(
    lengths: Sequence[int] | NDArray[np.int32], tokens_per_update: int, seed: int = 1
) -> SequenceOrder:
    return SequenceOrder(
        np.asarray(lengths, dtype=np.int32),
        crop_residues=200,
        tokens_per_update=tokens_per_update,
        seed=seed,
    )


def recorded(order: SequenceOrder, update: int) -> SkippedUpdate:
    """Return what a run records when it skips the update that it counts as number `update`."""
    members = order.update(update - 1)
    return SkippedUpdate(
        update=update, epochs=members.epochs.tolist(), sequences=members.sequences.tolist()
    )


def brute_force(
    order: SequenceOrder, updates: int, skipped: Sequence[int], sequences: int
) -> list[int]:
    """Return how often each sequence is in the updates that were not skipped."""
    seen: Counter[int] = Counter()
    for number in range(updates):
        if number + 1 not in skipped:
            seen.update(order.update(number).sequences.tolist())
    return [seen[sequence] for sequence in range(sequences)]


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(5, 400), min_size=4, max_size=40),
    tokens_per_update=st.integers(1, 500),
    updates=st.integers(0, 25),
    skipped=st.sets(st.integers(1, 25), max_size=5),
    seed=st.integers(0, 2**63 - 1),
)
def test_counts_are_those_of_brute_force(
    lengths: list[int], tokens_per_update: int, updates: int, skipped: set[int], seed: int
) -> None:
    order = order_of(lengths, tokens_per_update, seed)
    records = [recorded(order, update) for update in sorted(skipped)]
    result = audit(order, updates, records)
    seen = result.counts
    assert seen.tolist() == brute_force(order, updates, sorted(skipped), len(lengths))
    assert result.failures == []
    assert result.times_seen == dict(sorted(Counter(seen.tolist()).items()))
    assert [record.update for record in result.skipped] == sorted(
        update for update in skipped if update <= updates
    )
    assert result.updates_compared == updates


@pytest.mark.parametrize("tokens_per_update", [97, 1000, 4099, 13_617])
def test_after_exactly_one_epoch_every_sequence_was_seen_once(tokens_per_update: int) -> None:
    order = order_of(LENGTHS, tokens_per_update)
    assert order.tokens_per_epoch == 13_617
    # Up to the update in which the epoch ends; that one begins the next epoch where B does not
    # divide the tokens of an epoch.
    result = audit(order, -(-13_617 // tokens_per_update))
    assert result.failures == []
    assert result.whole_epochs == 1
    begun = result.sequences_of_epoch
    assert result.times_seen == ({1: 97} if begun == 0 else {1: 97 - begun, 2: begun})
    assert (begun == 0) or 13_617 % tokens_per_update


def test_a_skipped_update_is_taken_out_and_named() -> None:
    order = order_of([10, 20, 30, 40, 50, 60, 70], 100)
    records = [recorded(order, update) for update in (2, 4, 9)]
    result = audit(order, 5, records)
    # 294 tokens an epoch: five updates hold one whole epoch and some of the next.
    due = result.whole_epochs * 7 + result.sequences_of_epoch
    skipped = len(records[0].sequences) + len(records[1].sequences)
    assert sum(times * count for times, count in result.times_seen.items()) == due - skipped
    assert [update.update for update in result.skipped] == [2, 4]
    ids = {sequence: f"protein{sequence}" for sequence in range(7)}
    named = replace(result, ids=ids)
    text = audit_text(named)
    names = ", ".join(ids[sequence] for sequence in records[0].sequences)
    assert f"update 2 was skipped: {names}\n" in text
    assert text.endswith("every sequence came once in each epoch, and none out of turn")
    assert f"update 2 was skipped: numbers {records[0].sequences[0]}" in audit_text(result)
    assert named.as_json()["skipped"][0] == {
        "update": 2,
        "epochs": records[0].epochs,
        "sequences": records[0].sequences,
        "ids": [ids[sequence] for sequence in records[0].sequences],
    }
    assert "ids" not in result.as_json()["skipped"][0]


def test_long_lists_of_skipped_sequences_are_shortened() -> None:
    order = order_of(LENGTHS, 20_000)
    record = recorded(order, 1)
    line = audit_text(audit(order, 1, [record])).splitlines()[-2]
    assert line.startswith("update 1 was skipped: numbers ")
    assert line.endswith(f" and {len(record.sequences) - 10} more")


def test_records_that_the_order_contradicts_are_failures() -> None:
    order = order_of(LENGTHS, 1000)
    record = recorded(order, 3)
    other = replace(record, sequences=[96 - sequence for sequence in record.sequences])
    assert audit(order, 20, [other]).failures == [
        "skipped update 3 is recorded with other sequences"
    ]
    beyond = replace(record, sequences=[sequence + 97 for sequence in record.sequences])
    assert audit(order, 20, [beyond]).failures == [
        "skipped update 3 is recorded with other sequences"
    ]
    assert audit(order, 20, [record, record]).failures == [
        "skipped update 3 is recorded more than once"
    ]


def test_what_the_run_logged_is_compared() -> None:
    order = order_of(LENGTHS, 1000)
    seen = {
        update: sum(len(order.update(number).sequences) for number in range(update))
        for update in (10, 20, 30)
    }
    result = audit(order, 20, logged=seen.items())
    assert (result.lines_compared, result.failures) == (2, [])
    wrong = audit(order, 20, logged=[(10, seen[10] + 1)])
    assert wrong.failures == [
        f"metrics.jsonl has {seen[10] + 1} sequences at update 10, not {seen[10]}"
    ]
    assert audit_text(wrong).endswith(f"FAILED: {wrong.failures[0]}")


class TwiceInAnEpoch(SequenceOrder):
    """Has the first sequence of the second epoch in place of its last."""

    def permuted(self, epoch: int, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        if epoch == 1:
            ranks = np.where(ranks == 96, 0, ranks)
        return super().permuted(epoch, ranks)


class OutOfTurn(SequenceOrder):
    """Has the sequences of update 7 the other way round."""

    def update(self, number: int) -> UpdateSequences:
        members = super().update(number)
        if number != 6:
            return members
        return UpdateSequences(epochs=members.epochs, sequences=members.sequences[::-1])


def test_an_order_that_is_none_is_found_out() -> None:
    arguments = {"crop_residues": 200, "tokens_per_update": 1000, "seed": 1}
    twice = TwiceInAnEpoch(LENGTHS, **arguments)
    enough = 2 * twice.tokens_per_epoch // 1000 + 1
    assert "epoch 2 does not hold every sequence once" in audit(twice, enough).failures
    short = twice.tokens_per_epoch // 1000 + 2
    assert audit(twice, short).failures == []  # not so far yet
    assert audit(OutOfTurn(LENGTHS, **arguments), 7).failures == [
        "update 7 does not hold the sequences whose turn it is"
    ]
    assert audit(OutOfTurn(LENGTHS, **arguments), 6).failures == []


def test_of_long_runs_a_part_is_compared_one_by_one() -> None:
    result = audit(order_of(LENGTHS, 100), 5000)
    assert result.updates_compared == 256
    assert result.failures == []


def test_before_the_first_update_nothing_was_seen() -> None:
    result = audit(order_of(LENGTHS, 100), 0)
    assert (result.whole_epochs, result.sequences_of_epoch) == (0, 0)
    assert result.times_seen == {0: 97}
    assert result.as_json()["times_seen"] == {"0": 97}
