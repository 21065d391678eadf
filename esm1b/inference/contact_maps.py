"""Predicted contact maps of all proteins of a FASTA file, as numbers and as pictures."""

import json
import logging
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import matplotlib.style
import numpy as np
import pyarrow as pa
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from tqdm import tqdm

from esm1b.alphabet import decode
from esm1b.inference.fasta_input import CheckedFasta, EncodedRecord, checked_fasta
from esm1b.inference.long_sequences import LongSequences
from esm1b.inference.model import Device, Model, load_model
from esm1b.inference.result_file import result_schema, write_results
from esm1b.outputs import atomic_directory
from esm1b.plotting import OTHER, PAPER, STYLE, TRAINED
from esm1b.read_back import check_count

_log = logging.getLogger(__name__)

MapFormat = Literal["parquet", "npz"]

CONTACTS_COLUMNS: Final[Mapping[str, pa.DataType]] = {
    "id": pa.string(),
    "sequence": pa.string(),
    "length": pa.int32(),
    # "large": a plain list addresses 2^31 numbers, a map of 46,340 residues
    "probabilities": pa.large_list(pa.field("element", pa.float32(), nullable=False)),
}

_UNSAFE_CHARACTERS: Final = re.compile(r"[^A-Za-z0-9._-]+")  # in a file name, on any system
_NAME_CHARACTERS: Final = 80

LONG_RANGE: Final = 24  # residues apart at least, as in CASP

_MOST_CELLS: Final = 1100  # dots of the map: of more cells, some would not be drawn
_TITLE_CHARACTERS: Final = 56
_UNSEEN: Final = "#e9e6e0"
_COLOURS: Final = LinearSegmentedColormap.from_list(
    "contacts", [PAPER, "#cde3ea", "#6cafc4", TRAINED, "#0b2f3d"]
).with_extremes(bad=_UNSEEN)

_Map = tuple[EncodedRecord, NDArray[np.float32]]
"""A record, cut as its map is, and the map `[length, length]`."""


def predict_contacts(
    model_directory: Path,
    fasta: str,
    output: Path,
    *,
    format: MapFormat = "parquet",  # noqa: A002 (the option's name)
    pictures: int = 20,
    long_sequences: LongSequences = "error",
    device: Device = "auto",
) -> None:
    """Write the predicted contact map of every record of `fasta`, in the order of the file.

    `contacts.parquet` has the columns of `CONTACTS_COLUMNS`: the first word of the header, the
    residues that the map covers (J as X), their number, and the probabilities row by row.
    `contacts.npz` has the array `ids` and, under the number of each row from "0", its map. Under
    `esm1b`, in the metadata of the Parquet schema or as an array of one text, is everything that
    decided the values, as JSON.

    A map is symmetric, float32; NaN where no window holds both residues. `pictures/` has the first
    `pictures` of them as PNG. With "truncate", sequence and map are those of the first residues.
    Memory holds one map at a time, and 64 MB that wait to be written.

    `fasta` may be `-`, standard input. An earlier output in `output` is replaced.

    Raises:
        UserError: the model, a record or the output is invalid.
    """
    inputs = [model_directory, Path(fasta)]
    with atomic_directory(output, "contact-maps", inputs) as directory:
        model = load_model(model_directory, device=device)
        model.fitted_contact_head()  # before the whole input is checked
        with checked_fasta(
            fasta,
            longest=model.longest_sequence,
            long_sequences=long_sequences,
            spool=directory / "input",
        ) as records:
            maps = _maps(model, records, long_sequences, directory / "pictures", pictures)
            settings = {
                **model.settings(),
                "long_sequences": long_sequences,
                "input": records.identity,
            }
            if format == "npz":
                _write_npz(directory / "contacts.npz", maps, settings, records.count)
            else:
                schema = result_schema(CONTACTS_COLUMNS, settings)
                rows = (_row(contact_map, schema) for contact_map in maps)
                write_results(directory / "contacts.parquet", schema, rows, count=records.count)
    _log.info("%s: contact maps of %d sequences", output, records.count)


def _maps(
    model: Model, records: CheckedFasta, long_sequences: LongSequences, folder: Path, pictures: int
) -> Iterator[_Map]:
    """Yield the map of each record, and draw the first ones to `folder`."""
    if pictures:
        folder.mkdir()
    progress = tqdm(
        records.records(), desc="contacts", total=records.count, unit=" sequences", disable=None
    )
    for number, record in enumerate(progress, start=1):
        probabilities = model.contacts(record.residues, long_sequences=long_sequences)
        if number <= pictures:
            name = _UNSAFE_CHARACTERS.sub("_", record.id)[:_NAME_CHARACTERS]
            draw_contact_map(folder / f"{number:04d}_{name}.png", probabilities, record.id)
        yield replace(record, residues=record.residues[: len(probabilities)]), probabilities


def _row(contact_map: _Map, schema: pa.Schema) -> tuple[pa.RecordBatch, int]:
    """Return the row of `contacts.parquet`, and the bytes of its map."""
    record, probabilities = contact_map
    values = pa.array(probabilities.ravel())
    columns = [
        pa.array([record.id]),
        pa.array([decode(record.residues)]),
        pa.array([len(probabilities)], pa.int32()),
        pa.LargeListArray.from_arrays([0, len(values)], values, type=schema.types[-1]),
    ]
    return pa.record_batch(columns, schema=schema), values.nbytes


def _write_npz(path: Path, maps: Iterable[_Map], settings: Mapping[str, Any], count: int) -> None:
    """Write `count` maps, an array at a time: `numpy.savez` would hold all of them."""
    ids: list[str] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:

        def write(name: str, values: NDArray[Any]) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)

        for record, probabilities in maps:
            write(str(len(ids)), probabilities)
            ids.append(record.id)
        write("ids", np.array(ids, dtype=np.str_))
        write("esm1b", np.array(json.dumps(settings, sort_keys=True)))
    with zipfile.ZipFile(path) as archive:
        check_count(path, len(archive.namelist()), count + 2, "arrays")


def draw_contact_map(path: Path, probabilities: NDArray[np.float32], title: str) -> None:
    """Write a map `[length, length]`, NaN where unknown, as a PNG file, the same bytes each time.

    Below the diagonal, rings mark the `length` most probable pairs of long range; above it, nothing
    hides the colours.
    """
    length = len(probabilities)
    shown = _reduced(probabilities)
    if len(title) > _TITLE_CHARACTERS:
        title = title[: _TITLE_CHARACTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"
    with matplotlib.style.context(["default", STYLE, {"axes.grid": False}]):
        figure = Figure(figsize=(6.7, 6.7), dpi=220)
        axes = figure.add_subplot()
        edges = (0.5, length + 0.5, length + 0.5, 0.5)
        image = axes.imshow(
            shown, cmap=_COLOURS, vmin=0, vmax=1, interpolation="nearest", extent=edges
        )
        residues = "1 residue" if length == 1 else f"{length:,} residues"
        axes.set_title(f"{title}\n{residues}", parse_math=False)
        axes.set(xlabel="residue", ylabel="residue")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
        figure.colorbar(image, label="probability of a contact", shrink=0.8)
        i, j = top_long_range_pairs(probabilities)
        if len(i) > 0 and length <= _MOST_CELLS:
            axes.plot(
                i + 1,
                j + 1,
                "o",
                markersize=float(np.clip(800 / length, 2.2, 6)),  # points: about two cells
                markerfacecolor="none",
                markeredgecolor=OTHER,
                markeredgewidth=0.7,
                label=f"most probable pairs {LONG_RANGE} or more residues apart ({len(i):,})",
            )
        if np.isnan(shown).any():
            axes.plot([], [], "s", color=_UNSEEN, label="no window holds both residues")
        if axes.lines:
            figure.legend(loc="outside lower left", ncols=2)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # an id may be anything
            figure.savefig(path, format="png", metadata={"Software": None})


def top_long_range_pairs(probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return i and j `[2, pairs]`, i < j, of the `length` most probable long-range pairs.

    Pairs without a probability are left out.
    """
    pairs = np.array(np.triu_indices(len(probabilities), LONG_RANGE))
    values = probabilities[pairs[0], pairs[1]]
    best = np.argsort(-values, kind="stable")[: len(probabilities)]  # NaN comes last
    return pairs[:, best[~np.isnan(values[best])]]


def _reduced(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the map in at most `_MOST_CELLS` rows and columns, each the maximum of a block."""
    block = -(-len(probabilities) // _MOST_CELLS)
    starts = np.arange(0, len(probabilities), block)
    rows = np.fmax.reduceat(probabilities, starts, axis=0)
    reduced: NDArray[np.float32] = np.fmax.reduceat(rows, starts, axis=1)
    return reduced
