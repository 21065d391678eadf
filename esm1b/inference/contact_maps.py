"""Predicted contact maps of all proteins of a FASTA file."""

import logging
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from esm1b.alphabet import decode
from esm1b.files import atomic_directory
from esm1b.inference.contact_picture import draw_contact_map
from esm1b.inference.fasta_input import CheckedFasta, EncodedRecord, checked_fasta
from esm1b.inference.long_sequences import LongSequences
from esm1b.inference.model import Device, Model, load_model
from esm1b.inference.result_file import described_by, write_results

_log = logging.getLogger(__name__)

MapFormat = Literal["parquet", "npz"]

CONTACTS_SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("sequence", pa.string(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field(
            "probabilities",
            # "large": a plain list addresses 2^31 numbers, a map of 46,340 residues
            pa.large_list(pa.field("element", pa.float32(), nullable=False)),
            nullable=False,
        ),
    ]
)

_UNSAFE_CHARACTERS: Final = re.compile(r"[^A-Za-z0-9._-]+")  # in a file name, on any system
_NAME_CHARACTERS: Final = 80

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

    `contacts.parquet` has the columns of `CONTACTS_SCHEMA`: the first word of the header, the
    residues that the map covers (J as X), their number, and the probabilities row by row:

        >>> row = pyarrow.parquet.read_table("contacts/contacts.parquet").to_pylist()[0]
        ... # doctest: +SKIP
        >>> numpy.reshape(row["probabilities"], (row["length"], -1))  # doctest: +SKIP

    `contacts.npz` has the array `ids` and, under the number of each row from "0", its map:

        >>> maps = numpy.load("contacts/contacts.npz")  # doctest: +SKIP
        >>> maps["ids"][0], maps["0"].shape  # doctest: +SKIP

    A map is symmetric, float32; NaN where no window holds both residues. `pictures/` has the first
    `pictures` of them as PNG. With "truncate", sequence and map are those of the first residues.
    Memory holds one map at a time, and 64 MB that wait to be written.

    `fasta` may be `-`, standard input. An earlier output in `output` is replaced.

    Raises:
        UserError: the model, a record or the output is invalid.
    """
    model = load_model(model_directory, device=device)
    model.fitted_contact_head()  # before the whole input is checked
    with (
        atomic_directory(output, "contact-maps", [model_directory, Path(fasta)]) as directory,
        checked_fasta(
            fasta,
            longest=model.longest_sequence,
            long_sequences=long_sequences,
            spool=directory / "input",
        ) as records,
    ):
        maps = _maps(model, records, long_sequences, directory / "pictures", pictures)
        if format == "npz":
            _write_npz(directory / "contacts.npz", maps)
        else:
            settings = {**model.settings(long_sequences), "input": records.identity}
            schema = CONTACTS_SCHEMA.with_metadata(described_by(settings))
            write_results(directory / "contacts.parquet", schema, map(_row, maps))
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
        yield (
            EncodedRecord(id=record.id, residues=record.residues[: len(probabilities)]),
            probabilities,
        )


def _row(contact_map: _Map) -> tuple[pa.RecordBatch, int]:
    """Return the row of `contacts.parquet`, and the bytes of its map."""
    record, probabilities = contact_map
    values = pa.array(probabilities.ravel())
    kind = CONTACTS_SCHEMA.field("probabilities").type
    columns = [
        pa.array([record.id]),
        pa.array([decode(record.residues)]),
        pa.array([len(probabilities)], pa.int32()),
        pa.LargeListArray.from_arrays([0, len(values)], values, type=kind),
    ]
    return pa.record_batch(columns, schema=CONTACTS_SCHEMA), values.nbytes


def _write_npz(path: Path, maps: Iterable[_Map]) -> None:
    """Write an array at a time: `numpy.savez` would hold all of them."""
    ids: list[str] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:

        def write(name: str, values: NDArray[Any]) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)

        for record, probabilities in maps:
            write(str(len(ids)), probabilities)
            ids.append(record.id)
        write("ids", np.array(ids, dtype=np.str_))
