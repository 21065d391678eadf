from collections.abc import Iterator
from pathlib import Path

import pytest

from esm1b.corpus.sharding.shared_blocks import SharedBlock, load_block, share_blocks
from esm1b.sequences.formats import RawBlock


def blocks() -> Iterator[RawBlock]:
    for number in range(10):
        yield RawBlock(text=b"x" * number, kind="fasta", source="input", first_record=number)


def test_blocks_come_back_from_their_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esm1b.corpus.sharding.shared_blocks._SLOT_BYTES", 8)
    shared = []
    for number, block in enumerate(share_blocks(blocks(), tmp_path / "blocks", 3)):
        assert isinstance(block, SharedBlock) == (number <= 8)  # a larger one has no slot
        shared.append(block)
        # the last three are there
        for kept, expected in zip(shared[-3:], list(blocks())[: number + 1][-3:], strict=True):
            assert load_block(kept) == expected
    assert len(shared) == 10
    assert (tmp_path / "blocks").stat().st_size == 24
