"""FASTA as the input of a model: all records are checked before the first one is computed."""

import logging
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from esm1b.alphabet import encode
from esm1b.errors import UserError
from esm1b.files import new_token, temporary_path
from esm1b.inference.long_sequences import LongSequences, windows_of
from esm1b.sequences.fasta import read_fasta_blocks
from esm1b.sequences.input_file import STANDARD_INPUT, InputFile
from esm1b.sequences.record import (
    clean,
    count_nucleotides,
    drop_reason,
    fault,
    nucleotide_warning,
)

_log = logging.getLogger(__name__)

_RESIDUES_SEEN: Final = 1 << 20
"""Residues that tell whether the sequences are proteins."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedRecord:
    """A protein: the first word of its header, and its residue tokens, uint8 `[length]`."""

    id: str
    residues: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class CheckedFasta:
    """A FASTA file in which every record is valid input of a model.

    Attributes:
        path: path of the content.
        name: name of the input for messages.
        count: number of records; ids may repeat.
        identity: size and SHA-256; not the name, which differs each time a pipe is made.
    """

    path: Path
    name: str
    count: int
    identity: Mapping[str, Any]

    def records(self, start: int = 0) -> Iterator[EncodedRecord]:
        """Yield the records in the order of the file, without the first `start`.

        Raises:
            UserError: the file is no longer the one that was checked.
        """
        file = _open(self.path, self.name)
        records = (
            record
            for block in read_fasta_blocks(file)
            for record in zip(block.headers, block.sequences, strict=True)
        )
        for header, sequence in islice(records, start, None):
            yield EncodedRecord(id=header.id, residues=encode(clean(sequence)))
        if _identity(file) != self.identity:
            raise UserError(f"{self.name}: changed while it was read; expected the same content")


@contextmanager
def checked_fasta(
    name: str, *, longest: int, long_sequences: LongSequences, output: Path
) -> Iterator[CheckedFasta]:
    """Check all records of a FASTA file and yield the file, to be read again.

    Sequences are upper-cased and lose white space and one final `*`. An input that can be read only
    once (standard input, a pipe) is first copied to a temporary file beside `output`.

    Raises:
        UserError: the file is not FASTA or a record is invalid; the message names file and record.
    """
    path = Path(name)
    if name != STANDARD_INPUT and not path.is_fifo():
        yield _check(path, name, longest, long_sequences)
        return
    spool = temporary_path(output.resolve(), new_token(), "input")
    spool.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            spool.open("wb") as copy,
            nullcontext(sys.stdin.buffer) if name == STANDARD_INPUT else path.open("rb") as source,
        ):
            shutil.copyfileobj(source, copy)
        shown = "standard input" if name == STANDARD_INPUT else name
        yield _check(spool, shown, longest, long_sequences)
    finally:
        spool.unlink(missing_ok=True)


def _open(path: Path, name: str) -> InputFile:
    file = InputFile(str(path))
    file.name = name
    return file


def _identity(file: InputFile) -> dict[str, Any]:
    identity = file.identity()
    return {key: identity[key] for key in ("bytes", "sha256")}


def _check(path: Path, name: str, longest: int, long_sequences: LongSequences) -> CheckedFasta:
    file = _open(path, name)
    count = residues = nucleotides = 0
    with tqdm(
        desc=f"check {name}", total=file.size, unit="B", unit_scale=True, disable=None
    ) as bar:
        for block in read_fasta_blocks(file):
            for index, sequence in enumerate(map(clean, block.sequences)):
                if residues < _RESIDUES_SEEN:
                    residues += len(sequence)
                    nucleotides += count_nucleotides(sequence)
                if drop_reason(sequence) is None and len(sequence) <= longest:
                    continue
                place = f"{name}: record {count + index + 1} ({block.headers[index].id})"
                if drop_reason(sequence) is not None:
                    raise UserError(f"{place}: {fault(sequence)}")
                windows_of(len(sequence), longest, long_sequences, name=place)
            count += len(block.headers)
            bar.update(file.bytes_read - bar.n)
    if warning := nucleotide_warning(nucleotides, residues):
        _log.warning("%s: %s", name, warning)
    return CheckedFasta(path=path, name=name, count=count, identity=_identity(file))
