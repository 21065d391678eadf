"""Predicted contact maps of all proteins of a FASTA file."""

import json
import logging
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from esm1b.alphabet import decode
from esm1b.files import atomic_directory
from esm1b.inference.contact_picture import draw_contact_map
from esm1b.inference.fasta_input import Record, checked_fasta
from esm1b.inference.long_sequences import LongSequences
from esm1b.inference.model import Device, load_model
from esm1b.inference.weights_digest import weights_digest
from esm1b.versions import versions

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

_ROW_GROUP_BYTES: Final = 64 << 20
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9._-]+")
_NAME_CHARACTERS: Final = 80

_Add = Callable[[Record, NDArray[np.float32]], None]
"""Takes a record, cut as its map is, and the map `[length, length]`."""


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
    residues that the map covers (J as X) and how many, and the probabilities row by row:

        >>> row = pyarrow.parquet.read_table("contacts/contacts.parquet").to_pylist()[0]
        ... # doctest: +SKIP
        >>> numpy.reshape(row["probabilities"], (row["length"], -1))  # doctest: +SKIP

    `contacts.npz` has the array `ids` and, under the number of each row from "0", its map:

        >>> maps = numpy.load("contacts/contacts.npz")  # doctest: +SKIP
        >>> maps["ids"][0], maps["0"].shape  # doctest: +SKIP

    A map is symmetric, float32; NaN where no window holds both residues. `pictures/` has the first
    `pictures` of them as PNG. With "truncate", sequence and map are those of the first residues.
    One map is in memory at a time, and 64 MB that wait to be written.

    Args:
        model_directory: a model with a fitted contact head.
        fasta: a path, plain or gzip-compressed; `-` is standard input.
        output: the directory; an earlier output there is replaced.
        format: of the maps.
        pictures: how many to draw.
        long_sequences: what is done to a sequence that is longer than the model takes.
        device: where the network runs.

    Raises:
        UserError: the model, a record or the output is not what it must be.
    """
    model = load_model(model_directory, device=device)
    model.fitted_contact_head()  # before the input is looked through
    with (
        atomic_directory(output, "contact-maps", [model_directory, Path(fasta)]) as directory,
        checked_fasta(
            fasta,
            longest=model.longest_sequence,
            long_sequences=long_sequences,
            spool=directory / "input",
        ) as records,
    ):
        description = {
            "model": model.name,
            "model_sha256": weights_digest(model_directory),
            "input": records.identity,
            "long_sequences": long_sequences,
            "longest_sequence": model.longest_sequence,
            "device": model.network.device.type,
            "versions": versions(),
        }
        if pictures:
            (directory / "pictures").mkdir()
        with _writer(format, directory, description) as add:
            progress = tqdm(
                records.records(),
                desc="contacts",
                total=records.count,
                unit=" sequences",
                disable=None,
            )
            for number, record in enumerate(progress, start=1):
                probabilities = model.contacts(record.residues, long_sequences=long_sequences)
                seen = Record(id=record.id, residues=record.residues[: len(probabilities)])
                add(seen, probabilities)
                if number <= pictures:
                    name = f"{number:04d}_{_file_name(record.id)}.png"
                    draw_contact_map(directory / "pictures" / name, probabilities, record.id)
    _log.info("%s: contact maps of %d sequences", output, records.count)


def _writer(
    format: MapFormat,  # noqa: A002
    directory: Path,
    description: Mapping[str, Any],
) -> AbstractContextManager[_Add]:
    if format == "npz":
        return _npz_writer(directory / "contacts.npz")
    return _parquet_writer(directory / "contacts.parquet", description)


@contextmanager
def _parquet_writer(path: Path, description: Mapping[str, Any]) -> Iterator[_Add]:
    metadata = {b"esm1b": json.dumps(description, sort_keys=True)}
    schema = CONTACTS_SCHEMA.with_metadata(metadata)
    waiting: list[pa.Table] = []
    size = 0
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=False,
        use_byte_stream_split=["probabilities.list.element"],
        write_statistics=["id", "length"],
    ) as file:

        def write() -> None:
            nonlocal size
            table = pa.concat_tables(waiting)
            file.write_table(table, row_group_size=table.num_rows)
            waiting.clear()
            size = 0

        def add(record: Record, probabilities: NDArray[np.float32]) -> None:
            nonlocal size
            length = len(probabilities)
            kind = schema.field("probabilities").type
            values = pa.array(probabilities.ravel())
            columns = [
                pa.array([record.id]),
                pa.array([decode(record.residues)]),
                pa.array([length], pa.int32()),
                pa.LargeListArray.from_arrays([0, len(values)], values, type=kind),
            ]
            waiting.append(pa.table(columns, schema=schema))
            size += values.nbytes
            if size >= _ROW_GROUP_BYTES:
                write()

        yield add
        if waiting:
            write()


@contextmanager
def _npz_writer(path: Path) -> Iterator[_Add]:
    """Write an array at a time: `numpy.savez` would hold all of them."""
    ids: list[str] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:

        def write(name: str, values: NDArray[Any]) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)

        def add(record: Record, probabilities: NDArray[np.float32]) -> None:
            write(str(len(ids)), probabilities)
            ids.append(record.id)

        yield add
        write("ids", np.array(ids, dtype=np.str_))


def _file_name(identifier: str) -> str:
    """Return an id as a part of a file's name, on any system."""
    return _NOT_IN_A_NAME.sub("_", identifier)[:_NAME_CHARACTERS]
