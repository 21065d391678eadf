import logging
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from esm1b.batches.order import SequenceOrder
from esm1b.errors import RunFailure
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.skipped_updates import MOST_IN_A_ROW, SkipRecord


def test_skipped_updates_are_recorded_with_their_sequences_and_told_by_the_first_process(
    caplog: pytest.LogCaptureFixture,
) -> None:
    order = _order()
    records = [SkipRecord(order, _place(rank)) for rank in (0, 1)]
    with caplog.at_level(logging.WARNING):
        for record in records:
            for update, skipped in ((1, False), (2, True), (3, True)):
                record.push(update, torch.tensor(skipped))
            record.read(but_newest=1)
            assert [skipped.update for skipped in record.skipped] == [2]
            record.read()
            assert [skipped.update for skipped in record.skipped] == [2, 3]
    for number, recorded in enumerate(records[1].skipped, start=1):
        assert recorded.sequences == order.update(number).sequences.tolist()
        assert recorded.epochs == order.update(number).epochs.tolist()
    assert [message.split(":")[0] for message in caplog.messages] == ["update 2", "update 3"]


def test_a_record_goes_on_from_that_of_a_checkpoint() -> None:
    before = SkipRecord(_order(), _place(1))
    before.push(1, torch.tensor(True))
    before.read()
    after = SkipRecord(_order(), _place(1), list(before.skipped))
    after.push(2, torch.tensor(True))
    after.read()
    assert [skipped.update for skipped in after.skipped] == [1, 2]
    assert [skipped.update for skipped in before.skipped] == [1]


def test_too_many_in_a_row_end_the_run_and_a_finite_one_starts_the_count_anew() -> None:
    record = SkipRecord(_order(), _place(1))
    flags = [True] * MOST_IN_A_ROW + [False] + [True] * MOST_IN_A_ROW
    for update, skipped in enumerate(flags, start=1):
        record.push(update, torch.tensor(skipped))
    record.read()
    record.push(102, torch.tensor(True))
    with pytest.raises(RunFailure, match="the 51 updates up to 102 are not finite"):
        record.read()


def test_those_of_a_checkpoint_that_it_ends_with_count_as_in_a_row() -> None:
    before = SkipRecord(_order(), _place(1))
    flags = [True, False] + [True] * MOST_IN_A_ROW
    for update, skipped in enumerate(flags, start=1):
        before.push(update, torch.tensor(skipped))
    before.read()
    for updates, fails in ((52, True), (53, False)):
        after = SkipRecord(_order(), _place(1), list(before.skipped))
        after.push(updates + 1, torch.tensor(True))
        with pytest.raises(RunFailure) if fails else nullcontext():
            after.read()


def _order() -> SequenceOrder:
    lengths = np.full(7, 10, dtype=np.int32)
    return SequenceOrder(lengths, crop_residues=20, tokens_per_update=36, seed=1)


def _place(rank: int) -> Place:
    return Place(rank=rank, processes=2, local_rank=rank, launcher="test")


def test_flags_are_read_oldest_first_and_once() -> None:
    record = SkipRecord(_order(), _place(1))
    record.read(but_newest=1)
    assert record.skipped == []
    for update, skipped in ((1, True), (2, True), (3, False), (4, True)):
        record.push(update, torch.tensor(skipped))
    for newest, read in ((1, [1, 2]), (1, [1, 2]), (0, [1, 2, 4]), (0, [1, 2, 4])):
        record.read(but_newest=newest)
        assert [skipped.update for skipped in record.skipped] == read
