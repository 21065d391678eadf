"""Predicted contact maps of all proteins of a FASTA file, by a job that may be killed any time."""

import json
import logging
import re
import zipfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from esm1b.alphabet import decode
from esm1b.inference.contact_pictures import draw_contact_map
from esm1b.inference.fasta_input import CheckedFasta, EncodedRecord, checked_fasta
from esm1b.inference.long_sequences import LongSequences, windows_of
from esm1b.inference.model import ContactMethod, Device, Model, Precision, load_model
from esm1b.inference.result_file import ResultParts, result_schema, write_results
from esm1b.inference.resumable import compute_parts
from esm1b.outputs import own_output, replace_directory
from esm1b.read_back import check_count

_log = logging.getLogger(__name__)

MapFormat = Literal["parquet", "npz"]

_VALUES: Final[Mapping[ContactMethod, str]] = {"head": "probabilities", "jacobian": "couplings"}
_UNSAFE_CHARACTERS: Final = re.compile(r"[^A-Za-z0-9._-]+")  # in a file name, on any system
_NAME_CHARACTERS: Final = 80

_Map = tuple[str, NDArray[np.float32]]
"""The id of a record, and its map `[length, length]`."""


def contacts_columns(method: ContactMethod) -> dict[str, pa.DataType]:
    """Return the columns of `contacts.parquet`, see `predict_contacts`."""
    return {
        "id": pa.string(),
        "sequence": pa.string(),
        "length": pa.int32(),
        # "large": a plain list addresses 2^31 numbers, a map of 46,340 residues
        _VALUES[method]: pa.large_list(pa.field("element", pa.float32(), nullable=False)),
    }


def predict_contacts(
    model_directory: Path,
    fasta: str,
    output: Path,
    *,
    method: ContactMethod = "head",
    format: MapFormat = "parquet",  # noqa: A002 (the option's name)
    pictures: int = 20,
    long_sequences: LongSequences = "error",
    device: Device = "auto",
    precision: Precision = "auto",
    part_seconds: float = 60.0,
) -> None:
    """Write the predicted contact map of every record of `fasta`, in the order of the file.

    `contacts.parquet` has the columns of `contacts_columns`: the first word of the header, the
    residues that the map covers (J as X), their number, and row by row the probabilities, or with
    "jacobian" the couplings, which need no fitted contact head, see `Model.contacts`.
    `contacts.npz` has the array `ids` and, under the number of each row from "0", its map. Under
    `esm1b`, in the metadata of the Parquet schema or as an array of one text, is everything that
    decided the values, as JSON.

    A map is symmetric, float32; NaN where no window holds both residues. `pictures/` has the first
    `pictures` of them as PNG. With "truncate", sequence and map are those of the first residues.
    Memory holds one map at a time, and 128 MB that wait to be written.

    Finished maps go to `<output>.parts/`, from which the same call resumes after a kill, which
    costs the work of about `part_seconds`; the result is the same, byte for byte. `fasta` may be
    `-`, standard input. An earlier output in `output` is replaced.

    Raises:
        UserError: the model, a record or the output is invalid.
        Stopped: a signal asked to stop; everything finished is saved.
    """
    with own_output(output, "contact-maps", [model_directory, Path(fasta)]):
        model = load_model(model_directory, device=device, precision=precision)
        if method == "head":
            model.fitted_contact_head()  # before the whole input is checked
        with checked_fasta(
            fasta,
            longest=model.longest_sequence,
            long_sequences=long_sequences,
            output=output,
        ) as records:
            settings = {
                **model.settings(),
                "long_sequences": long_sequences,
                "input": records.identity,
                **({} if method == "head" else {"method": method}),
                **({} if model.precision == "fp32" else {"precision": model.precision}),
            }
            schema = result_schema(contacts_columns(method), settings)
            parts = ResultParts(output, schema, "contact-map-parts")

            def finish() -> None:
                with replace_directory(output, "contact-maps") as directory:
                    _draw(directory / "pictures", islice(_maps(parts), pictures), method)
                    if format == "npz":
                        _write_npz(directory / "contacts.npz", parts, settings, records.count)
                    else:
                        _write_parquet(directory / "contacts.parquet", parts, records.count)

            compute_parts(
                parts,
                lambda start: _rows(model, records, start, method, long_sequences, schema),
                finish,
                count=records.count,
                source=records.name,
                task="contacts",
                unit="sequences",
                part_seconds=part_seconds,
            )
    _log.info("%s: contact maps of %d sequences", output, records.count)


def _log_cost(
    model: Model, records: CheckedFasta, start: int, long_sequences: LongSequences
) -> None:
    windows = (
        window
        for record in records.records(start)
        for window in windows_of(
            len(record.residues), model.longest_sequence, long_sequences, name=record.id
        )
    )
    model.log_jacobian_cost([window.stop - window.start for window in windows])


def _rows(
    model: Model,
    records: CheckedFasta,
    start: int,
    method: ContactMethod,
    long_sequences: LongSequences,
    schema: pa.Schema,
) -> Iterator[pa.Table]:
    """Yield a table of one row for each record from number `start` on."""
    if method == "jacobian":
        _log_cost(model, records, start, long_sequences)
    for record in records.records(start):
        contacts = model.contacts(record.residues, method=method, long_sequences=long_sequences)
        yield _row(record, contacts, schema)


def _row(record: EncodedRecord, contacts: NDArray[np.float32], schema: pa.Schema) -> pa.Table:
    values = pa.array(contacts.ravel())
    columns = [
        pa.array([record.id]),
        pa.array([decode(record.residues[: len(contacts)])]),
        pa.array([len(contacts)], pa.int32()),
        pa.LargeListArray.from_arrays([0, len(values)], values, type=schema.types[-1]),
    ]
    return pa.table(columns, schema=schema)


def _maps(parts: ResultParts) -> Iterator[_Map]:
    for row in parts.chunks():
        length = row["length"][0].as_py()
        yield row["id"][0].as_py(), row.column(3).flatten().to_numpy().reshape(length, length)


def _draw(folder: Path, maps: Iterator[_Map], method: ContactMethod) -> None:
    for number, (record_id, contacts) in enumerate(maps, start=1):
        folder.mkdir(exist_ok=True)
        name = _UNSAFE_CHARACTERS.sub("_", record_id)[:_NAME_CHARACTERS]
        draw_contact_map(folder / f"{number:04d}_{name}.png", contacts, record_id, method=method)


def _write_parquet(path: Path, parts: ResultParts, count: int) -> None:
    rows = ((row, 4 * row["length"][0].as_py() ** 2) for row in parts.chunks())
    write_results(path, parts.schema, rows, count=count)


def _write_npz(path: Path, parts: ResultParts, settings: Mapping[str, Any], count: int) -> None:
    """Write `count` maps, an array at a time: `numpy.savez` would hold all of them."""
    ids: list[str] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:

        def write(name: str, values: NDArray[Any]) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)

        for record_id, contacts in _maps(parts):
            write(str(len(ids)), contacts)
            ids.append(record_id)
        write("ids", np.array(ids, dtype=np.str_))
        write("esm1b", np.array(json.dumps(settings, sort_keys=True)))
    with zipfile.ZipFile(path) as archive:
        check_count(path, len(archive.namelist()), count + 2, "arrays")
