from collections.abc import Iterator
from pathlib import Path

from esm1b.corpus.sharding.inputs import SharedBlock, share_blocks
from esm1b.sequences.formats import RawBlock


def blocks() -> Iterator[RawBlock]:
    for number in [*range(10), 3, 2, 1]:
        yield RawBlock(text=b"x" * number, kind="fasta", source="input", first_record=number)


def test_blocks_come_back_from_their_slots(tmp_path: Path) -> None:
    shared: list[SharedBlock] = []
    for number, block in enumerate(share_blocks(blocks(), tmp_path, 3)):
        shared.append(block)
        assert not block.empty.text
        # the last three are there
        for kept, expected in zip(shared[-3:], list(blocks())[: number + 1][-3:], strict=True):
            assert kept.load() == expected
    assert len(shared) == 13
    assert len(list(tmp_path.iterdir())) == 3
