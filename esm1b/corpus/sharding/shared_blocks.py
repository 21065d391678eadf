"""Handing blocks of text to other processes through a file that all of them map.

A pipe copies every block several times and 64 kB at a time, which costs as much as parsing it.
"""

import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

from esm1b.sequences.formats import RawBlock

# Blocks are about half of this; a larger one goes through the pipe.
_SLOT_BYTES: Final = 2 << 20


@dataclass(frozen=True, kw_only=True)
class SharedBlock:
    """A block whose text is bytes `start` to `start + size` of the file at `path`."""

    empty: RawBlock
    path: Path
    start: int
    size: int


def share_blocks(
    blocks: Iterable[RawBlock], path: Path, slots: int
) -> Iterator[RawBlock | SharedBlock]:
    """Yield `blocks` with their texts in a new file, which stays small: its slots are reused.

    `slots` blocks are in use at once: when block k is asked for, k - slots is done with.
    """
    with path.open("w+b") as file:
        # written, so that a full disk is an error here and not a signal at the mapped memory
        for _ in range(slots):
            file.write(bytes(_SLOT_BYTES))
        file.flush()
        memory = mmap.mmap(file.fileno(), 0)
    with memory:
        for number, block in enumerate(blocks):
            size = len(block.text)
            if size > _SLOT_BYTES:
                yield block
                continue
            start = number % slots * _SLOT_BYTES
            memory[start : start + size] = block.text
            yield SharedBlock(empty=replace(block, text=b""), path=path, start=start, size=size)


def load_block(block: RawBlock | SharedBlock) -> RawBlock:
    """Return a block with its text."""
    if isinstance(block, RawBlock):
        return block
    return replace(block.empty, text=_mapped(block.path)[block.start : block.start + block.size])


@cache
def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
