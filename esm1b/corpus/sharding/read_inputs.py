"""Reading all inputs of a corpus, in order and once."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from esm1b.corpus.records.selection import Counts
from esm1b.corpus.sharding.shared_blocks import SharedBlock, share_blocks
from esm1b.corpus.sharding.worker import ShardWorker
from esm1b.errors import UserError
from esm1b.files import size_in_words
from esm1b.sequences.formats import RawBlock, raw_blocks
from esm1b.sequences.input_file import CHUNK_BYTES, InputFile
from esm1b.worker_pool import WorkerPool

# Large enough that NumPy's overhead does not count, small enough to stay in the cache.
_BLOCK_BYTES: Final = CHUNK_BYTES
# Disk space for each byte of uncompressed input: the spilled records and, beside them, the corpus.
# UniRef50 takes 1.2 and 0.5.
_DISK_SHARE: Final = 1.8


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
        self._files = [InputFile(name) for name in names]
        self._text_bytes = 0

    def blocks(self) -> Iterator[RawBlock]:
        """Yield the records of all inputs."""
        for file in self._files:
            with tqdm(
                desc=f"read {file.name}", total=file.size, unit="B", unit_scale=True, disable=None
            ) as bar:
                for block in raw_blocks(file, _BLOCK_BYTES):
                    self._text_bytes += len(block.text)
                    yield block
                    bar.update(file.bytes_read - bar.n)

    def identities(self) -> list[dict[str, Any]]:
        """Return name, size and digest of each input, once all have been read."""
        return [file.identity() for file in self._files]

    def disk_need(self) -> str:
        """Return in words how much disk space the whole work takes."""
        sizes = [file.size for file in self._files]
        if None in sizes or not self._text_bytes:
            return f"{_DISK_SHARE} bytes for each byte of the uncompressed inputs"
        share_read = sum(file.bytes_read for file in self._files) / sum(filter(None, sizes))
        return f"about {size_in_words(_DISK_SHARE * self._text_bytes / share_read)}"


def read_inputs(inputs: Inputs, pool: WorkerPool[ShardWorker], spill: Path) -> Counts:
    """Have the workers select and spill the records of all inputs; return the counts of all.

    A file in the folder `spill` hands over the blocks.
    """
    blocks: Iterator[RawBlock | SharedBlock] = inputs.blocks()
    if pool.has_processes:
        blocks = share_blocks(inputs.blocks(), spill / "blocks", pool.window)
    for _ in pool.map(ShardWorker.add, blocks):
        pass
    return sum(pool.each(ShardWorker.flush), start=Counts())
