"""The records that enter a corpus, and on which side of the split: rules, and their use."""

from collections import Counter
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from esm1b.corpus.records.id_list import IdList, read_id_list
from esm1b.corpus.records.parse import parse_rows
from esm1b.corpus.records.table import OUTCOMES, Rows
from esm1b.errors import UserError
from esm1b.sequences.formats import RawBlock
from esm1b.sequences.hashes import SAMPLE_KEY, SEQUENCE_KEY, below, id_hashes, sequence_hashes
from esm1b.sequences.record import fault

_HASH: Final = "XXH3 (64 bits) of the cleaned sequence; seed: BLAKE2b of the key"

NO_IDS: Final = np.zeros(1, np.bool_)
"""No id of a list of any length, as it adds up with `[ids]`."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of some records; the sum of two counts is that of their records together.

    Attributes:
        read: number of records read.
        selected: number of records that every rule on single records keeps: no duplicate has been
            dropped yet.
        held_out: number of selected records on the validation side.
        dropped: number of records by the reason to drop them.
        spilled: bytes written to disk and read back later.
        first_ids: first id that each worker kept, for messages.
        listed: `[ids]`, the ids of the split's list that were read.
        excluded: `[ids]`, the ids to leave out that were read.
        held_out_sequences: hashes of the sequences that listed ids hold out, in several arrays.
    """

    read: int = 0
    selected: int = 0
    held_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    spilled: int = 0
    first_ids: list[str] = field(default_factory=list)
    listed: NDArray[np.bool_] = field(default_factory=NO_IDS.copy)
    excluded: NDArray[np.bool_] = field(default_factory=NO_IDS.copy)
    held_out_sequences: list[NDArray[np.uint64]] = field(default_factory=list)

    def __add__(self, other: "Counts") -> "Counts":
        names = [one.name for one in fields(self)]
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which records enter a corpus beyond being proteins, and which of them are held out.

    Shares are taken by keyed hashes of the cleaned sequence: equal sequences stay together, a
    sequence fares alike in any other corpus, and a larger share is the same sequences and more.

    Attributes:
        validation_fraction: share of the sequences to hold out, above 0 and below 1.
        validation_ids: file of ids to hold out instead. A record with another id and the same
            sequence as one of them is dropped.
        allow_partial_list: accept that some of those ids, or all of the ids to exclude, are missing
            from the records.
        minimum_length: residues below which a record is dropped.
        maximum_length: residues above which a record is dropped.
        sample: share of the sequences to keep, above 0 and below 1.
        exclude: file of ids, or FASTA, whose records are left out.
        strict: refuse the input instead of dropping a record with other characters, without a
            sequence, of an unwanted length, or with the id of another.

    Raises:
        UserError: an option that nothing can meet.
    """

    validation_fraction: float = 0.005
    validation_ids: Path | None = None
    allow_partial_list: bool = False
    minimum_length: int | None = None
    maximum_length: int | None = None
    sample: float | None = None
    exclude: Path | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        held_out = self.validation_fraction if self.validation_ids is None else None
        for name, share in (("validation fraction", held_out), ("sample", self.sample)):
            if share is not None and not 0 < share < 1:
                raise UserError(f"{name} {share}: expected a number above 0 and below 1")
        shortest = 1
        for name, length in (
            ("minimum length", self.minimum_length),
            ("maximum length", self.maximum_length),
        ):
            if length is not None and length < shortest:
                raise UserError(f"{name} {length}: expected at least {shortest}")
            shortest = length or shortest

    @cached_property
    def listed(self) -> IdList | None:
        """The ids to hold out, if a file names them; `UserError` as `read_id_list`."""
        return None if self.validation_ids is None else read_id_list(self.validation_ids)

    @cached_property
    def excluded(self) -> IdList | None:
        """The ids to leave out, if any; `UserError` as `read_id_list`."""
        return None if self.exclude is None else read_id_list(self.exclude)

    def found(self) -> Counts:
        """Return the ids of both lists that this process has met."""
        listed, excluded = (
            NO_IDS if ids is None else ids.found for ids in (self.listed, self.excluded)
        )
        return Counts(listed=listed, excluded=excluded)

    def definition(self, found: int) -> dict[str, Any]:
        """Return the manifest's account of which records were wanted.

        Args:
            found: number of excluded ids among the records.
        """
        definition: dict[str, Any] = {"strict": self.strict}
        for name in ("minimum_length", "maximum_length"):
            if getattr(self, name) is not None:
                definition[name] = getattr(self, name)
        if self.sample is not None:
            definition["sample"] = _share(self.sample, SAMPLE_KEY)
        if self.excluded is not None:
            definition["excluded"] = self.excluded.definition(found)
        return definition

    def split_definition(self, found: int) -> dict[str, Any]:
        """Return the manifest's account of the split.

        Args:
            found: number of listed ids among the records.
        """
        if self.listed is not None:
            return {"method": "ids", **self.listed.definition(found)}
        return {"method": "sequence-hash", **_share(self.validation_fraction, SEQUENCE_KEY)}


def _share(fraction: float, key: bytes) -> dict[str, Any]:
    return {"fraction": fraction, "hash": _HASH, "key": key.decode()}


def select_rows(block: RawBlock, selection: Selection) -> tuple[Rows, Counts]:
    """Return the records of a block that are kept, with hashes and side, and the counts of all.

    The lists of `selection` note which of their ids the block has.

    Raises:
        UserError: the block cannot be parsed, or `selection` is strict and a record is refused.
    """
    rows = parse_rows(block)
    index = rows.index
    index["order"] = id_hashes(bytes(rows.text), *rows.field("id"))

    def drop(which: NDArray[np.bool_], reason: str) -> None:
        index["outcome"][which & (index["outcome"] == 0)] = OUTCOMES.index(reason)

    if selection.listed is not None:
        index["is_validation"] = selection.listed.find(index["order"])
    if selection.excluded is not None:
        drop(selection.excluded.find(index["order"]), "excluded")
    lengths = rows.field("sequence")[1]
    if selection.minimum_length is not None:
        drop(lengths < selection.minimum_length, "too_short")
    if selection.maximum_length is not None:
        drop(lengths > selection.maximum_length, "too_long")
    if selection.strict:
        _refuse(block, rows, selection)
    if selection.sample is not None:
        hashes = sequence_hashes(_sequences(rows), SAMPLE_KEY)
        drop(~below(hashes, selection.sample), "not_in_sample")

    outcomes = np.bincount(index["outcome"], minlength=len(OUTCOMES)).tolist()
    kept = rows if outcomes[0] == len(rows) else rows.take(index["outcome"] == 0)
    kept.index["sequence_hash"] = sequence_hashes(_sequences(kept), SEQUENCE_KEY)
    if selection.listed is None:
        kept.index["is_validation"] = below(
            kept.index["sequence_hash"], selection.validation_fraction
        )
    return kept, Counts(
        read=len(rows),
        selected=len(kept),
        held_out=int(kept.index["is_validation"].sum()),
        dropped=Counter(
            {reason: n for reason, n in zip(OUTCOMES, outcomes, strict=True) if reason}
        ),
    )


def _sequences(rows: Rows) -> list[bytes]:
    starts, lengths = rows.field("sequence")
    text = bytes(rows.text)  # no copy: the rows of a block are over bytes
    bounds = zip(starts.tolist(), (starts + lengths).tolist(), strict=True)
    return [text[start:end] for start, end in bounds]


def _refuse(block: RawBlock, rows: Rows, selection: Selection) -> None:
    """Raise for the first record that strictness refuses."""
    outcomes = rows.index["outcome"]
    refused = np.flatnonzero((outcomes != 0) & (outcomes != OUTCOMES.index("excluded")))
    if not len(refused):
        return
    place = int(refused[0])
    name = (rows.value("id", place) or b"").decode()
    sequence = rows.value("sequence", place) or b""
    why = {
        "too_short": f"length {len(sequence)}; expected at least {selection.minimum_length}",
        "too_long": f"length {len(sequence)}; expected at most {selection.maximum_length}",
    }.get(OUTCOMES[outcomes[place]] or "") or fault(sequence)
    raise UserError(f"{block.source}: record {block.first_record + place + 1} ({name}): {why}")
