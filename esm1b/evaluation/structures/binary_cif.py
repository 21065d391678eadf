"""BinaryCIF files: the items of mmCIF, each column encoded in several steps.

https://github.com/molstar/BinaryCIF/blob/master/encoding.md
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from esm1b.evaluation.structures.mmcif import Items, contents_of
from esm1b.evaluation.structures.residues import Contents, StructureError

_TYPES: Final = {1: "<i1", 2: "<i2", 3: "<i4", 4: "<u1", 5: "<u2", 6: "<u4", 32: "<f4", 33: "<f8"}


def is_binary_cif(content: bytes) -> bool:
    """Return whether bytes are the beginning of a BinaryCIF file."""
    return b"dataBlocks" in content[:200]


def read_binary_cif(content: bytes) -> Contents:
    """Return what a BinaryCIF file says; it may hold nothing.

    Raises:
        StructureError: the file breaks the format, or see `contents_of`.
    """
    try:
        columns: dict[str, Any] = {}
        for block in msgpack.unpackb(content)["dataBlocks"]:
            for category in block["categories"] if "_atom_site.Cartn_x" not in columns else ():
                for column in category["columns"]:
                    columns[f"{category['name']}.{column['name']}".lower()] = column
    except (KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
        raise _unreadable(error) from error
    return contents_of(_items_of(columns))


def _items_of(columns: Mapping[str, Any]) -> Items:
    def items(tag: str) -> list[str]:
        if tag.lower() not in columns:
            return []
        column = columns[tag.lower()]
        try:
            values = [str(value) for value in decoded(**column["data"]).tolist()]
            if column.get("mask"):  # 0 where there is a value
                nulls = decoded(**column["mask"]).tolist()
                values = ["" if null else value for value, null in zip(values, nulls, strict=True)]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise _unreadable(error) from error
        return values

    return items


def _unreadable(error: Exception) -> StructureError:
    return StructureError(f"cannot be read as BinaryCIF: {type(error).__name__}: {error}")


def decoded(data: Any, encoding: Sequence[Mapping[str, Any]]) -> NDArray[Any]:
    """Return the values of a column, `[rows]`; the last encoding is undone first."""
    for step in reversed(encoding):
        match step["kind"]:
            case "ByteArray":
                data = np.frombuffer(data, _TYPES[step["type"]])
            case "FixedPoint":
                data = data / step["factor"]
            case "IntervalQuantization":
                width = (step["max"] - step["min"]) / (step["numSteps"] - 1)
                data = step["min"] + width * data
            case "RunLength":
                data = np.repeat(data[::2], data[1::2])
            case "Delta":
                data = step["origin"] + np.cumsum(data, dtype=np.int64)
            case "IntegerPacking":
                data = _unpacked(data)
            case "StringArray":
                ends = decoded(step["offsets"], step["offsetEncoding"]).tolist()
                texts = [step["stringData"][a:b] for a, b in pairwise(ends)]
                # -1, the last, stands for no text.
                data = np.array([*texts, ""], dtype=object)[decoded(data, step["dataEncoding"])]
            case kind:
                raise ValueError(f"unknown encoding {kind!r}")
    return np.asarray(data)


def _unpacked(data: NDArray[Any]) -> NDArray[np.int64]:
    """Return integers from their summands: extreme values of the narrow type are continued."""
    limits = np.iinfo(data.dtype)
    is_whole = (data != limits.max) & ((data != limits.min) | (limits.min == 0))
    starts = np.flatnonzero(np.concatenate([[True], is_whole]))[: is_whole.sum()]
    return np.add.reduceat(data.astype(np.int64), starts) if data.size else data.astype(np.int64)
