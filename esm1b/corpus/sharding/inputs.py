"""Reading all inputs of a corpus, in order and once, and handing their blocks to workers."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Final

from tqdm import tqdm

from esm1b.errors import UserError
from esm1b.sequences.formats import RawBlock, raw_blocks
from esm1b.sequences.input_file import CHUNK_BYTES, InputFile

# Large enough that NumPy's overhead does not count, small enough to stay in the cache.
_BLOCK_BYTES: Final = CHUNK_BYTES
# Disk space for each byte of uncompressed input: the spilled records and, beside them, the corpus.
# UniRef50 takes 1.2 and 0.5.
_DISK_SHARE: Final = 1.8
# What an empty shard takes: its footer, in whole blocks of the file system.
_SHARD_BYTES: Final = 8192


class Inputs:
    """The inputs of a corpus, and how far they have been read.

    Args:
        names: paths; `-` is standard input.

    Raises:
        UserError: there is none, one is given twice, or one cannot be read.
    """

    def __init__(self, names: Sequence[str]) -> None:
        if not names:
            raise UserError("no input: expected at least one FASTA file, or '-' for standard input")
        name, times = Counter(names).most_common(1)[0]
        if times > 1:
            raise UserError(f"{name}: given more than once; expected each input once")
        self.files = [InputFile(name) for name in names]
        self._text_bytes = 0

    def blocks(self) -> Iterator[RawBlock]:
        """Yield the records of all inputs."""
        for file in self.files:
            with tqdm(
                desc=f"read {file.name}", total=file.size, unit="B", unit_scale=True, disable=None
            ) as bar:
                for block in raw_blocks(file, _BLOCK_BYTES):
                    self._text_bytes += len(block.text)
                    yield block
                    bar.update(file.bytes_read - bar.n)

    def disk_need(self, shards: int) -> float | str:
        """Return the bytes that the whole work takes on the disk, or words if that is unknown."""
        sizes = [file.size for file in self.files]
        if None in sizes or not self._text_bytes:
            return f"{_DISK_SHARE} bytes for each byte of the uncompressed inputs"
        share_read = sum(file.bytes_read for file in self.files) / sum(filter(None, sizes))
        return _DISK_SHARE * self._text_bytes / share_read + _SHARD_BYTES * shards


@dataclass(frozen=True, kw_only=True)
class SharedBlock:
    """A block whose text is the first `size` bytes of the file at `path`."""

    empty: RawBlock
    path: Path
    size: int

    def load(self) -> RawBlock:
        """Return the block with its text."""
        with self.path.open("rb") as file:
            return replace(self.empty, text=file.read(self.size))


def share_blocks(blocks: Iterable[RawBlock], folder: Path, slots: int) -> Iterator[SharedBlock]:
    """Yield `blocks` with their texts in `slots` new files of `folder`, used in turn.

    When block k is asked for, block k - `slots` must be done with. A pipe would copy a text several
    times and 64 kB at a time, which costs as much as parsing it.
    """
    paths = [folder / f"block-{slot:06d}" for slot in range(slots)]
    for path in paths:
        path.touch()
    for path, block in zip(cycle(paths), blocks, strict=False):
        # not truncated: the file system would allocate its blocks again each time
        with path.open("r+b") as file:
            file.write(block.text)
        yield SharedBlock(empty=replace(block, text=b""), path=path, size=len(block.text))
