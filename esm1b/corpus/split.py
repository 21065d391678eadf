"""Which sequences are held out for validation."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from esm1b.corpus.input_file import DamagedGzipError, InputFile
from esm1b.errors import UserError

__all__ = ["FractionSplit", "IdSplit", "Split", "id_hashes", "read_id_split", "sequence_hashes"]

# Fixed for good: another key would shuffle every corpus and move its held-out sequences.
_ID_KEY: Final = b"esm1b corpus order"
_SEQUENCE_KEY: Final = b"esm1b validation split"


class Split(Protocol):
    """A rule that sends each record to training or to validation, whatever the others are."""

    def is_validation(
        self, sequences: Sequence[bytes], ids: NDArray[np.uint64]
    ) -> NDArray[np.bool_]:
        """Return, per record, whether it is held out; `ids` are `id_hashes`."""
        ...

    def definition(self) -> dict[str, Any]:
        """Return the manifest's account of the rule."""
        ...

    def describe(self) -> str:
        """Return the rule in words and the verb, for messages: `... leaves`."""
        ...


@dataclass(frozen=True, kw_only=True)
class FractionSplit:
    """Holds out about `fraction` of the sequences, by the hash of the cleaned sequence.

    Equal sequences stay on one side, and a sequence keeps its side in any other corpus; a larger
    fraction holds out the same ones and more.

    Raises:
        UserError: the fraction is not between 0 and 1.
    """

    fraction: float

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise UserError(
                f"validation fraction {self.fraction}: expected a number above 0 and below 1"
            )

    def is_validation(
        self, sequences: Sequence[bytes], ids: NDArray[np.uint64]
    ) -> NDArray[np.bool_]:
        """Return, per record, whether it is held out."""
        limit = np.uint64(int(self.fraction * 2**64))
        return np.less(sequence_hashes(sequences), limit)

    def definition(self) -> dict[str, Any]:
        """Return the manifest's account of the rule."""
        return {
            "method": "sequence-hash",
            "fraction": self.fraction,
            "hash": "blake2b, 8 bytes, big-endian, of the cleaned sequence",
            "key": _SEQUENCE_KEY.decode(),
        }

    def describe(self) -> str:
        """Return the rule in words."""
        return f"validation fraction {self.fraction} leaves"


@dataclass(frozen=True, kw_only=True)
class IdSplit:
    """Holds out the records whose id a file names.

    Attributes:
        hashes: sorted `id_hashes` of the named ids: 8 bytes each, where the strings of a UniRef
            release would take a gigabyte. Two of n ids share one with a probability of n^2 / 2^65.
        file: the file's name, for messages.
        sha256: digest of the file.
    """

    hashes: NDArray[np.uint64]
    file: str
    sha256: str

    def is_validation(
        self, sequences: Sequence[bytes], ids: NDArray[np.uint64]
    ) -> NDArray[np.bool_]:
        """Return, per record, whether it is held out."""
        position = np.searchsorted(self.hashes, ids)
        return np.equal(self.hashes[np.minimum(position, len(self.hashes) - 1)], ids)

    def definition(self) -> dict[str, Any]:
        """Return the manifest's account of the rule."""
        return {"method": "ids", "ids_file_sha256": self.sha256, "ids": len(self.hashes)}

    def describe(self) -> str:
        """Return the rule in words."""
        return f"{self.file}: its {len(self.hashes)} ids leave"


def read_id_split(path: Path) -> IdSplit:
    """Return the split by a file of ids, one per line (the first word), plain or gzip-compressed.

    Raises:
        UserError: the file cannot be read, is damaged or names no id.
    """
    file = InputFile(str(path))
    hashes: list[NDArray[np.uint64]] = []
    rest = b""
    try:
        for chunk in file.chunks():
            whole, end, rest = (rest + chunk).rpartition(b"\n")
            hashes.append(id_hashes(_first_words(whole + end)))
    except DamagedGzipError as error:
        raise UserError(f"{path}: {error}; expected a complete .gz file") from error
    hashes.append(id_hashes(_first_words(rest)))
    unique = np.unique(np.concatenate(hashes))
    if not len(unique):
        raise UserError(f"{path}: names no id; expected one sequence id per line")
    return IdSplit(hashes=unique, file=str(path), sha256=file.identity()["sha256"])


def id_hashes(ids: Iterable[bytes]) -> NDArray[np.uint64]:
    """Return the 64-bit keyed hash of each id, which also orders the records of a corpus."""
    return _hashes(ids, _ID_KEY)


def sequence_hashes(sequences: Iterable[bytes]) -> NDArray[np.uint64]:
    """Return the 64-bit keyed hash of each cleaned sequence, uniform over the whole range."""
    return _hashes(sequences, _SEQUENCE_KEY)


def _hashes(values: Iterable[bytes], key: bytes) -> NDArray[np.uint64]:
    keyed = hashlib.blake2b(digest_size=8, key=key)
    digests: list[bytes] = []
    for value in values:
        state = keyed.copy()  # the key is hashed once, not once per value
        state.update(value)
        digests.append(state.digest())
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)


def _first_words(lines: bytes) -> list[bytes]:
    return [words[0].removeprefix(b">") for line in lines.splitlines() if (words := line.split())]
