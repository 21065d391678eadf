"""Variants of a protein as people write them: `A12G:L30P`, `p.Ala12Gly`, or the whole sequence."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, NamedTuple

from Bio.Data.IUPACData import protein_letters_3to1_extended

from esm1b.alphabet import AMINO_ACIDS
from esm1b.errors import UserError

Reason = Literal[
    "unreadable",
    "synonymous",
    "stop codon",
    "insertion or deletion",
    "unknown residue",
    "position outside",
    "other wild type",
    "repeated position",
]

_LETTERS: Final = {name.upper(): letter for name, letter in protein_letters_3to1_extended.items()}
_LETTERS["TER"] = "*"
_MUTATION: Final = re.compile(r"([A-Z]{3}|[A-Z*])(-?\d+)([A-Z]{3}|[A-Z*=])")
_SEQUENCE: Final = re.compile(r"[A-Z*-]+")
_SEPARATOR: Final = re.compile(r"[:;,]")
_HGVS: Final = re.compile(r"P\.|[()\[\]\s]")  # of upper-cased text: prefix and brackets
_INDEL: Final = re.compile(r"DEL|INS|DUP|FS|EXT|-$|^-|\d[A-Z*]{2}(?![A-Z])|\d[A-Z]{4,}")
_WILD_TYPE: Final = {"=", "WT", "_WT", "WILD-TYPE", "WILDTYPE", "WILD TYPE"}
_EXPECTED: Final = "expected A12G, A12G:L30P, p.Ala12Gly, or a sequence as long as the wild type"


class VariantError(UserError):
    """A variant that cannot be scored; `reason` tells its kind, to count rows by."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One residue replaced: `position` counts from 0 in the wild type; letters are upper-case."""

    position: int
    wild_type: str
    mutant: str


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A protein with some residues replaced, by its name as given; in the order of position."""

    name: str
    mutations: tuple[Mutation, ...]

    def short_name(self, offset: int = 1) -> str:
        """Return `A12G:L30P`, where the first residue of the wild type has the number `offset`."""
        return ":".join(
            f"{each.wild_type}{each.position + offset}{each.mutant}" for each in self.mutations
        )

    def applied(self, wild_type: str) -> str:
        """Return the sequence of the variant."""
        letters = list(wild_type)
        for mutation in self.mutations:
            letters[mutation.position] = mutation.mutant
        return "".join(letters)


def parse_variant(
    text: str, wild_type: str, *, offset: int = 1, others: Iterable[str] = ()
) -> Variant:
    """Return the variant that `text` describes.

    Substitutions are `A12G`, in HGVS `p.Ala12Gly` or `p.A12G`, several of them separated by `:`,
    `;` or `,`; or `text` is the whole mutated sequence. Lower case counts as upper case.

    Args:
        text: description of the variant.
        wild_type: upper-case sequence of the protein.
        offset: number of its first residue.
        others: variants of the same table; where letters disagree, the message names the offset
            that fits all of them, if there is just one.

    Raises:
        VariantError: the text is something else, or does not fit `wild_type`; the message names
            neither file nor row.
    """
    stated = text.strip().upper()
    if stated.removeprefix("P.").strip("()") in _WILD_TYPE and len(stated) != len(wild_type):
        raise VariantError("synonymous", f"{text}: is the wild type; expected a substitution")
    if _SEQUENCE.fullmatch(stated):
        mutations = _differences(text, stated, wild_type, offset)
    else:
        mutations = [
            _placed(text, each, wild_type, offset, others) for each in _substitutions(text, stated)
        ]
    mutations.sort(key=lambda mutation: mutation.position)
    positions = [mutation.position for mutation in mutations]
    for earlier, later in pairwise(positions):
        if earlier == later:
            raise VariantError(
                "repeated position", f"{text}: replaces residue {later + offset} twice"
            )
    return Variant(name=text, mutations=tuple(mutations))


def all_substitutions(wild_type: str, *, offset: int = 1) -> list[Variant]:
    """Return every single substitution by another amino acid, by position, then letter.

    Positions that hold none of the 20 amino acids are left out.
    """
    return [
        Variant(
            name=f"{letter}{position + offset}{mutant}",
            mutations=(Mutation(position=position, wild_type=letter, mutant=mutant),),
        )
        for position, letter in enumerate(wild_type)
        if letter in AMINO_ACIDS
        for mutant in sorted(AMINO_ACIDS)
        if mutant != letter
    ]


def matching_offset(texts: Iterable[str], wild_type: str) -> int | None:
    """Return the offset at which all wild-type letters of the variants agree with `wild_type`.

    None if there is no such offset, or more than one. Variants that cannot be read do not count.
    """
    stated = set()
    for text in texts:
        try:
            substitutions = list(_substitutions(text, text.strip().upper()))
        except VariantError:
            continue
        stated |= {(each.number, each.wild_type) for each in substitutions}
    if not stated:
        return None
    number, letter = min(stated)
    offsets = [number - place for place, found in enumerate(wild_type) if found == letter]
    fitting = [
        offset
        for offset in offsets
        if all(
            0 <= at - offset < len(wild_type) and wild_type[at - offset] == wanted
            for at, wanted in stated
        )
    ]
    return fitting[0] if len(fitting) == 1 else None


class _Substitution(NamedTuple):
    wild_type: str
    number: int
    mutant: str


def _substitutions(text: str, stated: str) -> Iterator[_Substitution]:
    """Yield substitutions as they are written; their positions and wild types are not checked."""
    for part in _SEPARATOR.split(_HGVS.sub("", stated)):
        match = _MUTATION.fullmatch(part)
        if match is None:
            if _INDEL.search(part):
                raise VariantError(
                    "insertion or deletion", f"{text}: insertions and deletions have no score"
                )
            raise VariantError("unreadable", f"{text or 'empty'}: {_EXPECTED}")
        letters = []
        for symbol in (match[1], match[3]):
            if symbol == "=":
                symbol = match[1]
            letters.append(_LETTERS.get(symbol, symbol))
        before, after = letters
        if len(before) > 1 or len(after) > 1:
            if _INDEL.search(part):
                raise VariantError(
                    "insertion or deletion", f"{text}: insertions and deletions have no score"
                )
            unknown = before if len(before) > 1 else after
            raise VariantError("unknown residue", f"{text}: {unknown} is no amino acid")
        yield _Substitution(before, int(match[2]), after)


def _placed(
    text: str, stated: _Substitution, wild_type: str, offset: int, others: Iterable[str]
) -> Mutation:
    """Return a substitution at its place in `wild_type`."""
    position = stated.number - offset
    if not 0 <= position < len(wild_type):
        raise VariantError(
            "position outside",
            f"{text}: position {stated.number}; expected {offset} to "
            f"{offset + len(wild_type) - 1}{_fitting([text, *others], wild_type)}",
        )
    if wild_type[position] != stated.wild_type:
        raise VariantError(
            "other wild type",
            f"{text}: the wild type has {wild_type[position]} at {stated.number}; expected "
            f"{stated.wild_type}{_fitting([text, *others], wild_type)}",
        )
    return _checked(text, position, stated.wild_type, stated.mutant)


def _fitting(texts: Iterable[str], wild_type: str) -> str:
    offset = matching_offset(texts, wild_type)
    return "" if offset is None else f"; all letters agree with offset {offset}"


def _checked(text: str, position: int, wild_type: str, mutant: str) -> Mutation:
    if mutant == "*":
        raise VariantError("stop codon", f"{text}: ends the protein; expected a substitution")
    if mutant == wild_type:
        raise VariantError("synonymous", f"{text}: replaces nothing; expected a substitution")
    if mutant not in AMINO_ACIDS:
        raise VariantError(
            "unknown residue", f"{text}: {mutant} is none of the 20 amino acids {AMINO_ACIDS}"
        )
    return Mutation(position=position, wild_type=wild_type, mutant=mutant)


def _differences(text: str, sequence: str, wild_type: str, offset: int) -> list[Mutation]:
    """Return the substitutions that lead from the wild type to a whole sequence."""
    shown = text if len(text) <= 20 else f"{text[:16]}..."
    if "-" in sequence or len(sequence) != len(wild_type):
        raise VariantError(
            "insertion or deletion",
            f"{shown}: {len(sequence.replace('-', ''))} residues; expected {len(wild_type)}, as "
            "the wild type has: insertions and deletions have no score",
        )
    found = [
        _checked(f"{before}{position + offset}{after}", position, before, after)
        for position, (before, after) in enumerate(zip(wild_type, sequence, strict=True))
        if before != after
    ]
    if not found:
        raise VariantError("synonymous", f"{shown}: is the wild type; expected a substitution")
    return found
