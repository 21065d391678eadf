"""Files that name records by their ids."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from esm1b.errors import UserError
from esm1b.sequences.hashes import id_hashes, joined
from esm1b.sequences.input_file import DamagedInputError, InputFile

# the first word of a header line, and of any line
_IN_FASTA: Final = re.compile(rb"^>[ \t\v\f]*(\S+)", re.MULTILINE)
_IN_LIST: Final = re.compile(rb"^>?+[ \t\v\f]*(\S+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class IdList:
    """The ids that a file names.

    Attributes:
        hashes: sorted `id_hashes`: 8 bytes each, where the strings of a UniRef release would take
            a gigabyte. Two of n ids share one with a probability of n^2 / 2^65.
        file: name of the file, for messages.
        sha256: digest of the file.
    """

    hashes: NDArray[np.uint64]
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

    def definition(self, found: int) -> dict[str, Any]:
        """Return the manifest's account of the list, of which `found` ids are in the corpus."""
        return {"ids_file_sha256": self.sha256, "ids": len(self), "found": found}


def read_id_list(path: Path) -> IdList:
    """Return the ids that a file names, plain or gzip-compressed.

    A file whose first line begins with `>` is FASTA, and its header lines name the ids; any other
    names one id per line. An id is the first word, without a `>` before it.

    Raises:
        UserError: the file cannot be read, is damaged or names no id.
    """
    file = InputFile(str(path))
    hashes = [np.empty(0, np.uint64)]
    pattern: re.Pattern[bytes] | None = None
    try:
        for lines in _blocks_of_lines(file):
            if pattern is None and (start := lines.lstrip()):
                pattern = _IN_FASTA if start.startswith(b">") else _IN_LIST
            if pattern is not None:
                hashes.append(id_hashes(*joined(pattern.findall(lines.replace(b"\r", b"\n")))))
    except DamagedInputError as error:
        raise error.for_user(str(path)) from error
    unique = np.unique(np.concatenate(hashes))
    if not len(unique):
        raise UserError(f"{path}: names no id; expected one sequence id per line, or FASTA")
    return IdList(hashes=unique, file=str(path), sha256=file.identity()["sha256"])


def _blocks_of_lines(file: InputFile) -> Iterator[bytes]:
    rest = b""
    for chunk in file.chunks():
        whole, end, rest = (rest + chunk).rpartition(b"\n")
        yield whole + end
    yield rest
