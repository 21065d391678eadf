"""Which sequences are held out for validation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from esm1b.corpus.records.id_list import IdList, read_id_list
from esm1b.errors import UserError
from esm1b.sequences.hashes import SEQUENCE_KEY, below


class Split(Protocol):
    """A rule that sends each record to training or to validation, whatever the others are."""

    @property
    def listed(self) -> IdList | None:
        """The ids to hold out, if that is the rule."""

    def is_validation(
        self, sequences: NDArray[np.uint64], ids: NDArray[np.uint64]
    ) -> NDArray[np.bool_]:
        """Return, per record, whether it is held out.

        Args:
            sequences: `sequence_hashes`.
            ids: `id_hashes`.
        """
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

    @property
    def listed(self) -> None:
        """No ids."""
        return None

    def is_validation(
        self, sequences: NDArray[np.uint64], ids: NDArray[np.uint64]
    ) -> NDArray[np.bool_]:
        """Return, per record, whether it is held out."""
        return below(sequences, self.fraction)

    def definition(self) -> dict[str, Any]:
        """Return the manifest's account of the rule."""
        return {
            "method": "sequence-hash",
            "fraction": self.fraction,
            "hash": "XXH3 (64 bits) of the cleaned sequence; seed: BLAKE2b of the key",
            "key": SEQUENCE_KEY.decode(),
        }

    def describe(self) -> str:
        """Return the rule in words."""
        return f"validation fraction {self.fraction} leaves"


@dataclass(frozen=True, kw_only=True)
class IdSplit:
    """Holds out the records whose id is listed."""

    listed: IdList

    def is_validation(
        self, sequences: NDArray[np.uint64], ids: NDArray[np.uint64]
    ) -> NDArray[np.bool_]:
        """Return, per record, whether it is held out."""
        return self.listed.places(ids) >= 0

    def definition(self) -> dict[str, Any]:
        """Return the manifest's account of the rule."""
        return {
            "method": "ids",
            "ids_file_sha256": self.listed.sha256,
            "ids": len(self.listed),
        }

    def describe(self) -> str:
        """Return the rule in words."""
        return f"{self.listed.file}: its {len(self.listed)} ids leave"


def read_id_split(path: Path) -> IdSplit:
    """Return the split by a file of ids, as `read_id_list` reads it."""
    return IdSplit(listed=read_id_list(path))
