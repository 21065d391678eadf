"""FASTA as the input of a model: every record is checked before the first one is computed."""

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from esm1b.alphabet import encode
from esm1b.errors import UserError
from esm1b.inference.long_sequences import LongSequences, windows_of
from esm1b.sequences.cleaning import clean, drop_reason
from esm1b.sequences.fasta import read_fasta_blocks
from esm1b.sequences.header import RecordBlock
from esm1b.sequences.input_file import STANDARD_INPUT, InputFile


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """A protein: the first word of its header, and its residue tokens, uint8 `[length]`."""

    id: str
    residues: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class CheckedFasta:
    """A FASTA file whose records a model can take, every one.

    Attributes:
        path: where it is read from.
        name: what the user calls it.
        count: records; ids may repeat.
        residues: of all records together.
        identity: size and SHA-256 of the file as it is on the disk.
    """

    path: Path
    name: str
    count: int
    residues: int
    identity: Mapping[str, Any]

    def records(self, start: int = 0) -> Iterator[Record]:
        """Yield the records in the order of the file, without the first `start`.

        Raises:
            UserError: the file is no longer the one that was checked.
        """
        file = _open(self.path, self.name)
        yield from islice(self._all(file), start, None)
        if _identity(file) != self.identity:
            raise UserError(f"{self.name}: changed while it was read; expected the same content")

    def _all(self, file: InputFile) -> Iterator[Record]:
        for block in read_fasta_blocks(file):
            for header, sequence in zip(block.headers, block.sequences, strict=True):
                yield Record(id=header.id, residues=encode(clean(sequence)))


@contextmanager
def checked_fasta(
    name: str, *, longest: int, long_sequences: LongSequences, spool: Path
) -> Iterator[CheckedFasta]:
    """Check all records of a FASTA file and yield what reads them again.

    Sequences are upper-cased and lose white space and one final `*`. What can be read only once
    (standard input, a pipe) is first copied to `spool`, which is removed at the end.

    Args:
        name: a path, plain or gzip-compressed; `-` is standard input.
        longest: most residues that the model takes at once.
        long_sequences: with "error", a longer record is refused.
        spool: a file that may be written.

    Raises:
        UserError: the file is not FASTA or a record cannot be used; the message names file and
            record.
    """
    path = Path(name)
    if name != STANDARD_INPUT and not path.is_fifo():
        yield _check(path, name, longest, long_sequences)
        return
    spool.parent.mkdir(parents=True, exist_ok=True)
    try:
        with spool.open("wb") as copy:
            if name == STANDARD_INPUT:
                shutil.copyfileobj(sys.stdin.buffer, copy)
            else:
                with path.open("rb") as pipe:
                    shutil.copyfileobj(pipe, copy)
        shown = "standard input" if name == STANDARD_INPUT else name
        yield _check(spool, shown, longest, long_sequences)
    finally:
        spool.unlink(missing_ok=True)


def _open(path: Path, name: str) -> InputFile:
    file = InputFile(str(path))
    file.name = name
    return file


def _identity(file: InputFile) -> dict[str, Any]:
    """Return size and digest; not the name, which a pipe has anew each time."""
    identity = file.identity()
    return {key: identity[key] for key in ("bytes", "sha256")}


def _check(path: Path, name: str, longest: int, long_sequences: LongSequences) -> CheckedFasta:
    file = _open(path, name)
    count = residues = 0
    with tqdm(
        desc=f"check {name}", total=file.size, unit="B", unit_scale=True, disable=None
    ) as bar:
        for block in read_fasta_blocks(file):
            lengths = _lengths(block, name, count)
            if long_sequences == "error" and max(lengths) > longest:
                index = next(i for i, length in enumerate(lengths) if length > longest)
                place = _place(block, index, name, count)
                windows_of(lengths[index], longest, long_sequences, name=place)
            count += len(lengths)
            residues += sum(lengths)
            bar.update(file.bytes_read - bar.n)
    return CheckedFasta(
        path=path, name=name, count=count, residues=residues, identity=_identity(file)
    )


def _lengths(block: RecordBlock, name: str, before: int) -> list[int]:
    """Return the residues of each record, or raise for the first that is not a protein."""
    sequences = [clean(sequence) for sequence in block.sequences]
    for index, sequence in enumerate(sequences):
        if drop_reason(sequence) is None:
            continue
        place = _place(block, index, name, before)
        try:
            encode(sequence)
        except ValueError as error:
            raise UserError(f"{place}: {error}") from error
        raise UserError(f"{place}: no residues; expected a protein sequence")
    return [len(sequence) for sequence in sequences]


def _place(block: RecordBlock, index: int, name: str, before: int) -> str:
    return f"{name}: record {before + index + 1} ({block.headers[index].id})"
