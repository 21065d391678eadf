"""Files that name records by their ids: lists as people and programs write them, tables, FASTA."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from esm1b.errors import UserError
from esm1b.sequences.hashes import id_hashes, joined
from esm1b.sequences.input_file import (
    UTF8_MARK,
    DamagedInputError,
    InputFile,
    foreign_format,
)

_IN_FASTA: Final = re.compile(rb"^>[ \t\v\f]*(\S+)", re.MULTILINE)
_BETWEEN_IDS: Final = re.compile(r"\s*[,;]\s*")
_QUOTES: Final = "\"'`\u2018\u2019\u201c\u201d"
_COMMENT: Final = "#"
# Names of a column of ids, without spaces, `_` and `-`; UniProt calls its own "Entry".
_ID_COLUMNS: Final = {
    *("id", "ids", "identifier", "accession", "accessions", "entry", "clusterid", "uniref50"),
    *("uniref50id", "unirefid", "uniprotid", "proteinid", "sequenceid", "seqid"),
}
_EXPECTED: Final = "expected one sequence id per line, a table with a column id, or FASTA"
_AT_ONCE: Final = 100_000
_SHOWN: Final = 1_000


@dataclass(frozen=True, kw_only=True)
class IdList:
    """The ids that a file names.

    Attributes:
        hashes: sorted `id_hashes`: 8 bytes each, where the strings of a UniRef release would take
            a gigabyte. Two of n ids share one with a probability of n^2 / 2^65.
        first: the first ids of the file, for messages.
        file: name of the file, for messages.
        sha256: digest of the file.
    """

    hashes: NDArray[np.uint64]
    first: tuple[bytes, ...]
    file: str
    sha256: str

    def __len__(self) -> int:
        return len(self.hashes)

    @cached_property
    def found(self) -> NDArray[np.bool_]:
        """`[ids]`, in the order of `hashes`: the ids that `find` has met in this process."""
        return np.zeros(len(self), np.bool_)

    def find(self, ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return which of `ids` (as `id_hashes`) the list names, and note them in `found`."""
        places = np.minimum(np.searchsorted(self.hashes, ids), len(self) - 1)
        is_named: NDArray[np.bool_] = self.hashes[places] == ids
        self.found[places[is_named]] = True
        return is_named

    def first_missing(self, found: NDArray[np.bool_]) -> str | None:
        """Return an id, as the file writes it, that is not among the `found` `[ids]`.

        None if it stands far behind in the file.
        """
        places = np.searchsorted(self.hashes, id_hashes(*joined(self.first)))
        missing = np.flatnonzero(~found[places])
        return self.first[missing[0]].decode() if len(missing) else None

    def definition(self, found: int) -> dict[str, Any]:
        """Return the manifest's account of the list, of which `found` ids are in the corpus."""
        return {"ids_file_sha256": self.sha256, "ids": len(self), "found": found}


def read_id_list(path: Path) -> IdList:
    """Return the ids that a file names, plain or gzip-compressed.

    A file whose first line begins with `>` is FASTA, and its header lines name the ids. One whose
    first line has a cell such as `id` or `Entry` is a table, separated by tabs, commas or
    semicolons, and that column names them. In any other, the first word of each line is an id;
    further ids may follow it behind commas or semicolons, or behind spaces if there is but one
    line. Lines that begin with `#`, quotes around an id and a `>` before it do not count.

    Raises:
        UserError: the file cannot be read, is damaged, is no text, names no id, or a row of the
            table has none.
    """
    file = InputFile(str(path))
    hashes = [np.empty(0, np.uint64)]
    first: list[bytes] = []
    try:
        ids = _ids(file)
        while several := list(islice(ids, _AT_ONCE)):
            hashes.append(id_hashes(*joined(several)))
            first += several[: _SHOWN - len(first)]
    except DamagedInputError as error:
        raise error.for_user(str(path)) from error
    unique = np.unique(np.concatenate(hashes))
    if not len(unique):
        raise UserError(f"{path}: names no id; {_EXPECTED}")
    digest = file.identity()["sha256"]
    return IdList(hashes=unique, first=tuple(first), file=str(path), sha256=digest)


def _ids(file: InputFile) -> Iterator[bytes]:
    blocks = _blocks_of_lines(file)
    start = b""
    while not start.strip() and (block := next(blocks, b"")):
        start = (start + block).removeprefix(UTF8_MARK)
    problem = foreign_format(start) or ("JSON" if start.lstrip()[:1] in (b"[", b"{") else None)
    if problem or b"\0" in start:
        raise UserError(f"{file.name}: {problem or 'UTF-16 or binary data'}; {_EXPECTED}")
    if start.lstrip().startswith(b">"):
        for block in chain([start], blocks):
            yield from _IN_FASTA.findall(block.replace(b"\r", b"\n"))
        return
    for name in _in_list(_lines(chain([start], blocks)), file.name):
        if name:
            yield name.encode()


def _blocks_of_lines(file: InputFile) -> Iterator[bytes]:
    rest = b""
    for chunk in file.chunks():
        whole, end, rest = (rest + chunk).rpartition(b"\n")
        if end:
            yield whole + end
    if rest:
        yield rest


def _lines(blocks: Iterator[bytes]) -> Iterator[str]:
    """Yield the lines that are neither blank nor comments."""
    for block in blocks:
        try:
            text = block.decode()
        except UnicodeDecodeError:
            text = block.decode("latin-1")  # as headers of FASTA are read
        for line in text.splitlines():
            line = line.strip()
            if line and not line.startswith(_COMMENT):
                yield line


def _in_list(lines: Iterator[str], name: str) -> Iterator[str]:
    first, second = next(lines, ""), next(lines, None)
    if second is None:
        yield from (_word(piece) for words in first.split() for piece in _pieces(words))
        return
    lines = chain([second], lines)
    if (found := _id_column(first)) is None:
        for line in chain([first], lines):
            if line.isidentifier():  # just an id, as nearly always: a quick look is enough
                yield line
            else:
                yield from map(_word, _pieces(line))
        return
    delimiter, column, title = found
    for line in lines:
        try:
            row = next(csv.reader([line], delimiter=delimiter))
        except csv.Error:
            row = []
        if len(row) <= column or not (word := _word(row[column])):
            raise UserError(f"{name}: row {line[:60]!r} has no {title}; expected one in each row")
        yield word


def _id_column(header: str) -> tuple[str, int, str] | None:
    """Return delimiter, place and name of the column of ids; None if `header` names no such."""
    for delimiter in "\t,;":
        for place, cell in enumerate(header.split(delimiter)):
            title = cell.strip().strip(_QUOTES)
            if re.sub("[ _-]", "", title).lower() in _ID_COLUMNS:
                return delimiter, place, title
    return None


def _pieces(line: str) -> list[str]:
    """Return what stands between commas and semicolons if the first word ends at one.

    In `P1 Titin, fragment` the comma belongs to the name of the protein.
    """
    pieces = _BETWEEN_IDS.split(line)
    return pieces if len(pieces[0].split()) < 2 else [line]


def _word(cell: str) -> str:
    """Return the first word without quotes around it or around the cell, and without `>`."""
    text = cell.strip()
    bare = text.lstrip(_QUOTES).removeprefix(">")
    word = (bare.split(None, 1) or [""])[0]
    return word.rstrip(_QUOTES) if text[:1] in _QUOTES else word
