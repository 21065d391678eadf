"""Where assays come from: a table with one or several wild types, or a ProteinGym folder."""

import gzip
import logging
import math
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from esm1b.errors import UserError
from esm1b.evaluation.inputs import files_of
from esm1b.evaluation.variants.assays import AssaySource, Columns, cell_number
from esm1b.scoring.wild_type import checked_sequence, read_wild_type
from esm1b.table_file import Row, read_table

_log = logging.getLogger(__name__)

_KINDS: Final = ("test", "unseen")

# Facts of an assay, in its rows or in ProteinGym's reference file; the first name is ours.
_ASSAY: Final = ("assay", "dms_id")
_WILD_TYPE: Final = ("wild_type", "target_seq")
_PROTEIN: Final = ("protein", "uniprot_id")
_CATEGORY: Final = ("category", "coarse_selection_type")
_KIND: Final = ("kind",)
_CUTOFF: Final = "dms_binarization_cutoff"
_FACTS: Final = (*_ASSAY, *_WILD_TYPE, *_PROTEIN, *_CATEGORY, *_KIND, _CUTOFF)
_FILE: Final = "dms_filename"
_HEADER_BYTES: Final = 4096  # the assays beside it are large, and need not be read for this
_MOST_NAMED: Final = 3


def find_assays(
    data: Path,
    columns: Columns,
    *,
    wild_type: Path | None = None,
    reference: Path | None = None,
) -> list[AssaySource]:
    """Return the assays of a table or of a ProteinGym folder, whose files are not read yet.

    A table is one assay, or with a column `assay` (or `DMS_id`) one for each name in it. Its column
    `wild_type` (`target_seq`) has the sequence in each row, or the FASTA file `wild_type` has it.
    `protein` (`UniProt_ID`) is the unit of the bootstrap, `category` (`coarse_selection_type`) a
    part of ProteinGym's mean, `kind` (test or unseen) a subset of the results; all are optional.

    In a folder, the reference file has a row for each assay with `DMS_id`, `DMS_filename`,
    `target_seq` and the same optional facts, and `DMS_binarization_cutoff` for tables without
    `DMS_score_bin`. It is `reference`, or the one text table in the folder with these columns.

    Raises:
        UserError: a file is missing or is no table, a fact is missing or contradicts itself, or a
            wild type is no protein sequence.
    """
    if data.is_dir():
        if wild_type is not None:
            raise UserError(f"--wild-type: {data} is a folder; its reference file has them")
        return _folder_assays(data, reference or _find_reference(data), columns)
    if reference is not None:
        raise UserError(f"--reference: {data} is a file; expected a folder of assays")
    stated = None if wild_type is None else read_wild_type(str(wild_type))[1]
    return _table_assays(data, columns, stated)


def _table_assays(path: Path, columns: Columns, wild_type: str | None) -> list[AssaySource]:
    names, rows = read_table(path, {*columns.names, *_FACTS})
    if not rows:
        raise UserError(f"{path}: has no rows; expected at least two variants")
    if wild_type is None and not set(_WILD_TYPE) & set(names):
        raise UserError(f"{path}: has no column wild_type; expected one, or --wild-type FASTA")
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(_fact(row, _ASSAY) or path.name, []).append(row)

    def source(name: str, found: Sequence[Row]) -> AssaySource:
        where = f"{path}: assay {name}" if name != path.name else str(path)
        return _source(where, name, found, wild_type, lambda: (path, names, found))

    return [source(name, found) for name, found in by_name.items()]


def _folder_assays(folder: Path, reference: Path, columns: Columns) -> list[AssaySource]:
    names, rows = read_table(reference, {*_FACTS, _FILE})
    needed = ("dms_id", _FILE, "target_seq")
    if missing := [name for name in needed if name not in names]:
        raise UserError(f"{reference}: lacks the columns {', '.join(missing)} of a reference file")
    paths = {path.name: path for path in files_of(folder)}
    sources, absent = [], []
    for number, row in enumerate(rows, start=1):
        name, file = _fact(row, _ASSAY), _fact(row, (_FILE,))
        if name is None or file is None:
            raise UserError(f"{reference}: row {number}: DMS_id or DMS_filename is empty")
        path = paths.get(file) or paths.get(f"{file}.gz")
        if path is None:
            absent.append(file)
            continue
        read = partial(_read_file, path, columns)
        sources.append(_source(f"{reference}: {name}", name, [row], None, read))
    if absent:
        named = ", ".join(absent[:_MOST_NAMED]) + ("" if len(absent) <= _MOST_NAMED else ", ...")
        told = f"{folder}: {len(absent)} of the {len(rows)} files of {reference.name} are missing"
        if not sources:
            raise UserError(f"{told}: {named}")
        _log.warning("%s: %s", told, named)
    return sources


def _read_file(path: Path, columns: Columns) -> tuple[Path, Sequence[str], Sequence[Row]]:
    names, rows = read_table(path, columns.names)
    return path, names, rows


def _find_reference(folder: Path) -> Path:
    """Return the one text table in a folder whose header names the files of assays."""
    found = []
    for path in files_of(folder):
        opened = gzip.open if path.suffix.lower() == ".gz" else open
        with suppress(OSError, EOFError, zlib.error), opened(path, "rb") as file:
            if _FILE.encode() in file.read(_HEADER_BYTES).split(b"\n")[0].lower():
                found.append(path)
    if len(found) != 1:
        listed = ": " + ", ".join(str(path.relative_to(folder)) for path in found) if found else ""
        raise UserError(
            f"{folder}: holds {len(found)} tables with a column DMS_filename{listed}; expected "
            "one, such as ProteinGym's DMS_substitutions.csv, or --reference FILE"
        )
    return found[0]


def _source(
    where: str,
    name: str,
    rows: Sequence[Row],
    wild_type: str | None,
    read: Callable[[], tuple[Path, Sequence[str], Sequence[Row]]],
) -> AssaySource:
    """Return an assay with the facts in its rows, which must agree."""
    facts: list[str | None] = []
    for columns in (_WILD_TYPE, _PROTEIN, _CATEGORY, _KIND, (_CUTOFF,)):
        found = {_fact(row, columns) for row in rows}
        if len(found) > 1:
            told = " and ".join(sorted(str(value)[:20] for value in found)[:2])
            raise UserError(f"{where}: {columns[0]} is {told} in different rows; expected one")
        facts += found
    stated, protein, category, kind, cutoff = facts
    if wild_type is None:
        wild_type = checked_sequence(f"{where}: wild type", (stated or "").encode())
    if kind not in (*_KINDS, None):
        raise UserError(f"{where}: kind is {kind!r}; expected {' or '.join(_KINDS)}")
    threshold = cell_number(cutoff)
    return AssaySource(
        name=name,
        protein=protein or name,
        category=category,
        kind=kind,
        wild_type=wild_type,
        cutoff=None if math.isnan(threshold) else threshold,
        read=read,
    )


def _fact(row: Row, columns: Sequence[str]) -> str | None:
    """Return the text in the first of `columns` that the row has; None if it is empty."""
    value = next((row[name] for name in columns if name in row), None)
    return None if value is None else str(value).strip() or None
