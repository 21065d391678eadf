"""Which records of the input enter a corpus, and why the others do not."""

from dataclasses import dataclass
from typing import Any, Final

from esm1b.corpus.records.id_list import IdList
from esm1b.errors import UserError
from esm1b.sequences.cleaning import EMPTY_SEQUENCE, OTHER_CHARACTERS
from esm1b.sequences.hashes import SAMPLE_KEY

EXCLUDED: Final = "excluded"
TOO_SHORT: Final = "too_short"
TOO_LONG: Final = "too_long"
NOT_IN_SAMPLE: Final = "not_in_sample"
DUPLICATE_ID: Final = "duplicate_id"
HELD_OUT_SEQUENCE: Final = "held_out_sequence"
DROP_REASONS: Final = (
    OTHER_CHARACTERS,
    EMPTY_SEQUENCE,
    EXCLUDED,
    TOO_SHORT,
    TOO_LONG,
    NOT_IN_SAMPLE,
    DUPLICATE_ID,
    HELD_OUT_SEQUENCE,
)
"""In the order in which they are asked: a record counts under the first that holds."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What the user asks of the records beyond being proteins.

    Attributes:
        minimum_length: residues below which a record is dropped.
        maximum_length: residues above which a record is dropped.
        sample: share of the sequences to keep, by a keyed hash of the cleaned sequence: equal
            sequences are kept or dropped together, and a larger share keeps the same ones and more.
        excluded: ids to leave out.
        strict: refuse the input instead of dropping a record with other characters, without a
            sequence, of a length that is not wanted, or with the id of another.

    Raises:
        UserError: an option that nothing can meet.
    """

    minimum_length: int | None = None
    maximum_length: int | None = None
    sample: float | None = None
    excluded: IdList | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        if self.minimum_length is not None and self.minimum_length < 1:
            raise UserError(f"minimum length {self.minimum_length}: expected at least 1")
        if self.maximum_length is not None and self.maximum_length < (self.minimum_length or 1):
            raise UserError(
                f"maximum length {self.maximum_length}: expected at least "
                f"{self.minimum_length or 1}"
            )
        if self.sample is not None and not 0 < self.sample < 1:
            raise UserError(f"sample {self.sample}: expected a number above 0 and below 1")

    def definition(self) -> dict[str, Any]:
        """Return the manifest's account of the options that were given."""
        definition: dict[str, Any] = {"strict": self.strict}
        for name in ("minimum_length", "maximum_length"):
            if getattr(self, name) is not None:
                definition[name] = getattr(self, name)
        if self.sample is not None:
            definition["sample"] = {
                "fraction": self.sample,
                "hash": "XXH3 (64 bits) of the cleaned sequence; seed: BLAKE2b of the key",
                "key": SAMPLE_KEY.decode(),
            }
        if self.excluded is not None:
            definition["excluded"] = {
                "ids_file_sha256": self.excluded.sha256,
                "ids": len(self.excluded),
            }
        return definition
