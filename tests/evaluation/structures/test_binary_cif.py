from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from esm1b.errors import UserError
from esm1b.evaluation.structures.binary_cif import decoded
from esm1b.evaluation.structures.files import read_chain
from tests.evaluation.structure_text import NAMES, SEQUENCE, rows

INTEGERS = [{"kind": "ByteArray", "type": 3}]


def integers(*values: int) -> bytes:
    return np.array(values, "<i4").tobytes()


@pytest.mark.parametrize(
    ("data", "steps", "expected"),
    [  # the examples of the format's description
        (
            integers(0, 3, 2, 1),
            [{"kind": "Delta", "origin": 1000}, *INTEGERS],
            [1000, 1003, 1005, 1006],
        ),
        (integers(1, 3, 2, 1, 3, 2), [{"kind": "RunLength"}, *INTEGERS], [1, 1, 1, 2, 3, 3]),
        (
            integers(120, 123, 12),
            [{"kind": "FixedPoint", "factor": 100}, *INTEGERS],
            [1.2, 1.23, 0.12],
        ),
        (
            integers(0, 0, 1, 2, 2, 1),
            [{"kind": "IntervalQuantization", "min": 1, "max": 2, "numSteps": 3}, *INTEGERS],
            [1, 1, 1.5, 2, 2, 1.5],
        ),
        (
            np.array([1, 2, -3, 127, 1, -128, -2], "i1").tobytes(),
            [{"kind": "IntegerPacking", "isUnsigned": False}, {"kind": "ByteArray", "type": 1}],
            [1, 2, -3, 128, -130],
        ),
        (
            np.array([0, 255, 255, 3, 255, 0], "u1").tobytes(),
            [{"kind": "IntegerPacking", "isUnsigned": True}, {"kind": "ByteArray", "type": 4}],
            [0, 513, 255],
        ),
        (
            integers(0, 1, 0, -1),
            [
                {
                    "kind": "StringArray",
                    "dataEncoding": INTEGERS,
                    "stringData": "aAB",
                    "offsetEncoding": INTEGERS,
                    "offsets": integers(0, 1, 3),
                }
            ],
            ["a", "AB", "a", ""],
        ),
        (b"", [{"kind": "IntegerPacking"}, {"kind": "ByteArray", "type": 1}], []),
    ],
)
def test_encodings(data: bytes, steps: list[dict[str, Any]], expected: list[Any]) -> None:
    assert decoded(data, steps).tolist() == expected


def column(name: str, values: list[str]) -> dict[str, Any]:
    """Return a column of texts; None becomes a null value."""
    texts = sorted(set(values))
    ends = np.cumsum([0, *(len(text) for text in texts)])
    encoding = {
        "kind": "StringArray",
        "stringData": "".join(texts),
        "offsets": integers(*ends),
        "offsetEncoding": INTEGERS,
        "dataEncoding": INTEGERS,
    }
    data = integers(*(texts.index(value) for value in values))
    nulls = integers(*(1 if value in ".?" else 0 for value in values))
    mask = {"data": nulls, "encoding": INTEGERS}
    return {"name": name, "data": {"data": data, "encoding": [encoding]}, "mask": mask}


def binary_cif() -> bytes:
    atoms = [atom for atom in rows(SEQUENCE) if atom.place not in (10, 11)]
    sites = {
        "label_atom_id": [atom.name for atom in atoms],
        "label_comp_id": [atom.residue for atom in atoms],
        "label_alt_id": ["."] * len(atoms),
        "auth_asym_id": ["A"] * len(atoms),
        "label_seq_id": [str(atom.place) for atom in atoms],
        **{
            f"Cartn_{axis}": [f"{atom.position[k]:.3f}" for atom in atoms]
            for k, axis in enumerate("xyz")
        },
    }
    stated = {
        "num": [str(place) for place in range(1, 25)],
        "mon_id": [NAMES[letter] for letter in SEQUENCE],
    }
    categories = [
        {"name": name, "columns": [column(item, values) for item, values in items.items()]}
        for name, items in (("_entity_poly_seq", stated), ("_atom_site", sites))
    ]
    blocks = [{"header": "9ABC", "categories": categories}]
    return bytes(msgpack.packb({"version": "0.3.0", "encoder": "test", "dataBlocks": blocks}))


def test_a_file(tmp_path: Path) -> None:
    for name in ("9abc.bcif", "9abc.cif"):
        (tmp_path / name).write_bytes(binary_cif())
        chain = read_chain(tmp_path / name)
        assert chain is not None
        assert (chain.name, chain.sequence) == ("A", SEQUENCE)
        assert np.flatnonzero(np.isnan(chain.backbone[:, 1, 0])).tolist() == [9, 10]
        assert chain.backbone[0, 1].tolist() == [2.28, 0, 0]


@pytest.mark.parametrize(
    "content",
    [
        binary_cif()[:-100],
        binary_cif().replace(b"StringArray", b"StringDelta"),
        binary_cif().replace(b"offsets", b"offsetz"),
        binary_cif().replace(b"\xa4type\x03", b"\xa4type\x09"),
        msgpack.packb({"dataBlocks": 1}),
    ],
)
def test_damage_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "9abc.bcif").write_bytes(content)
    with pytest.raises(UserError, match=r"9abc\.bcif: cannot be read as BinaryCIF: \w+"):
        read_chain(tmp_path / "9abc.bcif")
