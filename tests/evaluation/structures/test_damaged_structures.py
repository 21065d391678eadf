"""Entries of the archive with every kind of record or item dropped, blanked, doubled, reordered."""

import gzip
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pytest

from esm1b.errors import UserError
from esm1b.evaluation.structures.files import read_chain
from esm1b.evaluation.structures.mmcif import read_mmcif
from esm1b.evaluation.structures.pdb import read_pdb

REAL_DATA = os.environ.get("ESM1B_REAL_DATA")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.realdata,
    pytest.mark.timeout(1800),  # two minutes of work
    pytest.mark.skipif(
        REAL_DATA is None, reason="ESM1B_REAL_DATA names no directory of real proteins"
    ),
]

Lines = list[str]
Rows = list[list[str]]

ATOM_FIELDS = [
    *[(6, 11), (12, 16), (16, 17), (17, 20), (20, 22), (22, 26), (26, 27), (30, 38), (38, 46)],
    *[(46, 54), (54, 60), (60, 66), (72, 76), (76, 78), (78, 80), (54, 80)],
]
FIELDS = {
    "SEQRES": [(7, 10), (10, 12), (13, 17), (19, 70), (19, 22), (70, 80)],
    "ATOM": ATOM_FIELDS,
    "HETATM": ATOM_FIELDS,
}
"""Columns of the fields."""
READ = {"SEQRES", "MODRES", "MODEL", "ENDMDL", "ATOM", "HETATM", "TER", "ANISOU", "END"}
ALLOWED = {
    # Nothing is left of the statement: the residues with coordinates are all that is known.
    *[("SEQRES", "all dropped"), ("SEQRES", "all blanked")],
    *[("entity_poly_seq", "all dropped"), ("entity_poly_seq", "rows dropped")],
    # Of two residue types at one place, the first counts.
    *[("entity_poly_seq", "rows reversed"), ("entity_poly_seq", "rows shuffled")],
}


def among(lines: Lines, chosen: Sequence[int], change: Callable[[Lines], Lines]) -> str:
    """Return the text with the chosen lines changed, from where the first of them stands."""
    others = [line for k, line in enumerate(lines) if k not in set(chosen)]
    changed = change([lines[k] for k in chosen])
    return "\n".join([*others[: chosen[0]], *changed, *others[chosen[0] :], ""])


def one(draw: random.Random, change: Callable[[str], Lines]) -> Callable[[Lines], Lines]:
    """Return a change of one line, drawn anew at each call."""

    def changed(lines: Lines) -> Lines:
        k = draw.randrange(len(lines))
        return [*lines[:k], *change(lines[k]), *lines[k + 1 :]]

    return changed


def pdb_variants(text: str, draw: random.Random) -> Iterator[tuple[str, str, str]]:
    """Yield kind of record, kind of damage and the text."""
    lines = text.splitlines()
    for record in dict.fromkeys(line[:6].rstrip() for line in lines):
        chosen = [k for k, line in enumerate(lines) if line[:6].rstrip() == record]
        changes: dict[str, Callable[[Lines], Lines]] = {
            "all dropped": lambda _: [],
            "one dropped": one(draw, lambda _: []),
            "all blanked": lambda old: [line[:6] for line in old],
            "one blanked": one(draw, lambda line: [line[:6]]),
            "one empty": one(draw, lambda _: [""]),
            "all doubled": lambda old: [line for line in old for _ in range(2)],
            "all repeated": lambda old: old + old,
            "one doubled": one(draw, lambda line: [line, line]),
            "reversed": lambda old: old[::-1],
            "shuffled": lambda old: draw.sample(old, len(old)),
            "cut short": one(draw, lambda line: [line[: draw.randrange(6, 60)]]),
        }
        for damage, change in changes.items():
            if record in READ or not damage.startswith("one "):
                yield record, damage, among(lines, chosen, change)
        for start, stop in FIELDS.get(record, ()):

            def blanked(line: str, start: int = start, stop: int = stop) -> Lines:
                return [line[:start] + " " * (stop - start) + line[stop:]]

            field = f"columns {start + 1} to {stop}"
            for damage, change in (
                ("all", lambda old, blanked=blanked: [blanked(line)[0] for line in old]),
                ("one", one(draw, blanked)),
            ):
                yield record, f"{field} of {damage} blanked", among(lines, chosen, change)


def cif_variants(text: str, draw: random.Random) -> Iterator[tuple[str, str, str]]:
    """Yield the category, the kind of damage and the text."""
    for category in ("entity_poly_seq", "atom_site"):
        before, _, rest = text.partition(f"loop_\n_{category}.")
        body, _, after = f"_{category}.{rest}".partition("\n#")
        tags = [line.strip() for line in body.splitlines() if line.startswith("_")]
        rows = [line.split() for line in body.splitlines() if not line.startswith("_")]
        assert all(len(row) == len(tags) for row in rows)

        def whole(tags: Lines, rows: Rows, before: str = before, after: str = after) -> str:
            lines = ["loop_", *tags, *(" ".join(row) for row in rows)]
            return before + "\n".join(lines) + "\n#" + after

        k = draw.randrange(len(rows))
        yield category, "all dropped", f"{before}#{after}"
        yield category, "rows dropped", whole(tags, rows[:0])
        yield category, "one row dropped", whole(tags, rows[:k] + rows[k + 1 :])
        yield category, "one row doubled", whole(tags, [*rows[: k + 1], *rows[k:]])
        yield category, "rows doubled", whole(tags, rows + rows)
        yield category, "rows reversed", whole(tags, rows[::-1])
        yield category, "rows shuffled", whole(tags, draw.sample(rows, len(rows)))
        yield category, "cut in a row", before + whole(tags, rows[:k], "")[:-5]
        yield category, "cut behind a row", whole(tags, rows[:k], before, "")[:-2]
        order = draw.sample(range(len(tags)), len(tags))
        mixed = [[row[column] for column in order] for row in rows]
        yield category, "items shuffled", whole([tags[column] for column in order], mixed)
        yield category, "tags in capitals", whole([tag.upper() for tag in tags], rows)
        for column, tag in enumerate(tags):
            item = tag.partition(".")[2]

            def with_cells(cells: Lines, column: int = column, rows: Rows = rows) -> Rows:
                return [
                    [*row[:column], cell, *row[column + 1 :]]
                    for row, cell in zip(rows, cells, strict=True)
                ]

            old = [row[column] for row in rows]
            yield (
                category,
                f"{item} dropped",
                whole(
                    tags[:column] + tags[column + 1 :], [r[:column] + r[column + 1 :] for r in rows]
                ),
            )
            yield (
                category,
                f"{item} doubled",
                whole([*tags, tag], [[*row, row[column]] for row in rows]),
            )
            yield category, f"{item}'s tag dropped", whole(tags[:column] + tags[column + 1 :], rows)
            for null in "?.":
                yield category, f"{item} all {null}", whole(tags, with_cells([null] * len(old)))
                yield (
                    category,
                    f"{item} one {null}",
                    whole(tags, with_cells([*old[:k], null, *old[k + 1 :]])),
                )
            yield category, f"{item} reversed", whole(tags, with_cells(old[::-1]))


def outcome(path: Path, content: str, expected: dict[str, str]) -> str:
    """Return `same`, `refused`, `too short` or `other`, by the sequence of the chain."""
    path.write_bytes(content.encode("latin-1"))
    try:
        chain = read_chain(path)
    except UserError as error:
        return "refused" if "\n" not in str(error) else "other"
    if chain is None:
        return "too short"
    known = [expected[chain.name]] if chain.name in expected else expected.values()
    return "same" if chain.sequence in known else "other"


def test_no_damage_changes_the_sequence_that_a_file_states(tmp_path: Path) -> None:
    draw = random.Random(0)
    counts: Counter[tuple[str, str]] = Counter()
    others: Counter[tuple[str, str]] = Counter()
    sources = sorted((Path(REAL_DATA or "") / "structures").rglob("*.gz"))
    for entry, source in enumerate(sources):
        text = gzip.decompress(source.read_bytes()).decode("latin-1")
        is_cif = ".cif" in source.name
        atoms = (read_mmcif if is_cif else read_pdb)(text).atoms
        expected = {}
        for name in atoms:
            try:
                chain = read_chain(source, name)
                expected[name] = chain.sequence if chain else ""
            except UserError:  # no protein
                pass
        variants = (cif_variants if is_cif else pdb_variants)(text, draw)
        for kind, damage, content in islice(variants, entry % 2, None, 2):  # half of an entry's
            result = outcome(tmp_path / "9abc.pdb", content, expected)
            counts[kind, result] += 1
            if result == "other":
                others[kind, damage] += 1
    for (kind, result), number in sorted(counts.items()):
        print(f"{kind:16} {result:10} {number}")
    for (kind, damage), number in sorted(others.items()):
        print(f"{kind:16} {damage:24} {number} of another sequence")
    assert sum(counts.values()) >= 3000
    # A modified residue without its parent is looked up in a dictionary.
    assert not [where for where in others if where[0] != "MODRES" and where not in ALLOWED]
