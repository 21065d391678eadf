import torch

from esm1b.pretraining.records.skips import Skips


def test_flags_are_read_oldest_first_and_once() -> None:
    skips = Skips()
    assert skips.known(but_newest=1) == []
    for update, skipped in ((1, False), (2, True), (3, False)):
        skips.push(update, torch.tensor(skipped))
    assert skips.known(but_newest=1) == [(1, False), (2, True)]
    assert skips.known(but_newest=1) == []
    assert skips.known(but_newest=0) == [(3, False)]
