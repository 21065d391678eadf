"""Reading all inputs of a corpus: workers parse and spill, this process adds up."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from esm1b.corpus.records.id_list import IdList
from esm1b.corpus.records.selection import DUPLICATE_ID
from esm1b.corpus.sharding.shared_blocks import share_blocks
from esm1b.corpus.sharding.worker import ShardWorker
from esm1b.disk_space import size_in_words
from esm1b.sequences.formats import RawBlock, raw_blocks
from esm1b.sequences.input_file import CHUNK_BYTES, InputFile
from esm1b.worker_pool import WorkerPool

_BLOCK_BYTES: Final = CHUNK_BYTES
# Of the disk, for each byte of uncompressed input: the spilled records and, beside them, the
# corpus. UniRef50 takes 1.2 and 0.5.
_DISK_SHARE: Final = 1.8


@dataclass(frozen=True, kw_only=True)
class ReadingAccount:
    """What was read.

    Attributes:
        counts: records `read`, and dropped by reason.
        kept: records that were spilled or dropped as duplicates.
        held_out: how many of those are held out.
        spilled: bytes.
        listed: how many ids of the split's list were met.
        excluded: how many of the excluded ids were met.
        held_out_sequences: sorted hashes of the sequences that listed ids hold out.
    """

    counts: Counter[str]
    kept: int
    held_out: int
    spilled: int
    listed: int
    excluded: int
    held_out_sequences: NDArray[np.uint64]


class Progress:
    """How far the inputs have been read, and what disk that is going to take."""

    def __init__(self, files: Sequence[InputFile]) -> None:
        self._files = files
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

    def need(self) -> str:
        """Return in words how much disk the whole work takes."""
        sizes = [file.size for file in self._files]
        if None in sizes or not self._text_bytes:
            return f"{_DISK_SHARE} bytes for each byte of the uncompressed inputs"
        share_read = sum(file.bytes_read for file in self._files) / sum(filter(None, sizes))
        return f"about {size_in_words(_DISK_SHARE * self._text_bytes / share_read)}"


def read_inputs(
    blocks: Iterator[RawBlock],
    pool: WorkerPool[ShardWorker],
    listed: IdList | None,
    excluded: IdList | None,
    spill: Path,
) -> ReadingAccount:
    """Have the workers parse and spill all blocks, and add up what became of them.

    Args:
        blocks: of the inputs.
        pool: the workers.
        listed: the ids to hold out, if that is the split.
        excluded: the ids to leave out, if any.
        spill: where a file for handing over the blocks may be made.
    """
    counts: Counter[str] = Counter()
    kept = held_out = 0
    is_listed: NDArray[np.bool_] = np.zeros(len(listed or ()), np.bool_)
    is_excluded: NDArray[np.bool_] = np.zeros(len(excluded or ()), np.bool_)
    sequences: list[NDArray[np.uint64]] = []
    shared = share_blocks(blocks, spill / "blocks", pool.window) if pool.has_processes else blocks
    for account in pool.map(ShardWorker.add, shared):
        counts += account.counts
        kept += account.kept
        held_out += account.held_out
        is_listed[account.listed] = True
        is_excluded[account.excluded] = True
        sequences.append(account.held_out_sequences)
    runs = pool.each(ShardWorker.flush)
    counts[DUPLICATE_ID] += sum(run.duplicates for run in runs)
    return ReadingAccount(
        counts=counts,
        kept=kept,
        held_out=held_out,
        spilled=sum(run.size for run in runs),
        listed=int(is_listed.sum()),
        excluded=int(is_excluded.sum()),
        held_out_sequences=np.unique(np.concatenate([np.empty(0, np.uint64), *sequences])),
    )
