import bz2
import codecs
import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esm1b.errors import UserError
from esm1b.evaluation.structures.files import ProteinChain, read_chain, structure_name
from tests.evaluation.structure_text import (
    HEADER,
    NAMES,
    SEQUENCE,
    Header,
    cif_text,
    pdb_text,
    rows,
)

PDB = pdb_text(rows(SEQUENCE), HEADER)
CIF = cif_text(rows(SEQUENCE), HEADER)


def read(folder: Path, content: bytes | str, name: str = "9abc.pdb") -> ProteinChain:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    chain = read_chain(path)
    assert chain is not None
    return chain


def test_names_of_structures() -> None:
    names = ("1aba.pdb.gz", "pdb1aba.ENT", "a.b.pdb3.bz2", "1aba.bcif", "1aba.pdbqt", ".pdb", "pdb")
    read = [structure_name(Path("folder.pdb") / name) for name in names]
    assert read == ["1aba", "pdb1aba", "a.b", "1aba", None, None, None]


@pytest.mark.parametrize(
    "content",
    [
        CIF,
        gzip.compress(CIF.encode()),
        bz2.compress(PDB.encode()),
        codecs.BOM_UTF8 + CIF.encode(),
        codecs.BOM_UTF8 + PDB.encode(),
        CIF.replace("\n", "\r\n"),
        PDB.replace("\n", "\r\n"),
        PDB.replace("\n", "\r"),
        "# made by hand\n\n" + CIF,
    ],
)
def test_the_content_tells_how_to_read(tmp_path: Path, content: bytes | str) -> None:
    for name in ("9abc.pdb", "9abc.cif", "9abc.cif.gz"):
        chain = read(tmp_path, content, name)
        assert chain.sequence == SEQUENCE
        assert np.isfinite(chain.backbone[:, :3]).all()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("9abc.pdb", b"<html><body>Not found</body></html>"),
        ("9abc.cif", b"<html><body>Not found</body></html>"),
        ("9abc.cif", b"data_9ABC\n#\n"),
        ("9abc.pdb", b""),
        ("9abc.pdb.gz", b"no gzip at all"),
        ("9abc.pdb.gz", gzip.compress(PDB.encode())[:200]),
        ("9abc.pdb.bz2", b"BZh9"),
        ("9abc.pdb", PDB.replace("2.280", "x.280").encode()),
        ("9abc.cif", CIF.replace(" 2.280", " x.280").encode()),
        ("9abc.bcif", b"\x83\xa7version\xa50.3.0\xaadataBlocks"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(UserError, match=name) as caught:
        read(tmp_path, content, name)
    assert "\n" not in str(caught.value)


LONG = Header(sequence=[NAMES[letter] for letter in 2 * SEQUENCE])
LONG_PDB = pdb_text(rows(2 * SEQUENCE), LONG)
LONG_CIF = cif_text(rows(2 * SEQUENCE), LONG)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (LONG_PDB[: LONG_PDB.index("ATOM    120") + 40], "chain A: the file ends within an atom"),
        (
            LONG_PDB[: LONG_PDB.index("ATOM    120")],
            "the file ends 17 residues before the end of chain A; expected TER or END",
        ),
        (
            LONG_PDB[: LONG_PDB.index("ATOM    120")] + "ANISOU  119  CB  PRO A  32     2406",
            "chain A: the file ends within an atom record",
        ),
        (LONG_CIF[: LONG_CIF.index("ATOM 120")], "the file ends 17 residues before the end of cha"),
        (LONG_CIF[: LONG_CIF.index("ATOM 120") + 9], "mmCIF: line 56: Wrong number of values"),
    ],
)
def test_half_a_file(tmp_path: Path, content: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read(tmp_path, content)


def test_atoms_without_an_end_are_whole_where_the_sequence_ends(tmp_path: Path) -> None:
    assert read(tmp_path, PDB.removesuffix("END\n")).sequence == SEQUENCE
    most = pdb_text(rows(SEQUENCE[:22]), HEADER).removesuffix("END\n")
    assert read(tmp_path, most).sequence == SEQUENCE
    without_sequence = pdb_text(rows(SEQUENCE[:20])).removesuffix("END\n")
    assert read(tmp_path, without_sequence).sequence == SEQUENCE[:20]
    # The polymer has ended; of what comes after, nothing matters.
    water = "TER\nHETATM  999  O   HOH A 201      10.0"
    assert read(tmp_path, most + water).sequence == SEQUENCE


@pytest.mark.parametrize("text", [pdb_text, cif_text])
def test_coordinates_must_fit_the_sequence(tmp_path: Path, text: Any) -> None:
    turned = Header(sequence=HEADER.sequence[::-1])
    with pytest.raises(UserError, match=r"9abc\.pdb: chain A: \d+ of 24 residues with"):
        read(tmp_path, text(rows(SEQUENCE), turned))


@pytest.mark.parametrize(("text", "number"), [(pdb_text, 0), (cif_text, 20)])
def test_a_sequence_shorter_than_the_model(tmp_path: Path, text: Any, number: int) -> None:
    short = Header(sequence=HEADER.sequence[:20])
    with pytest.raises(
        UserError,
        match=rf"chain A: {number} of 24 residues with coordinates fit its sequence of 20; expec",
    ):
        read(tmp_path, text(rows(SEQUENCE), short))


def test_an_entry_of_1993(tmp_path: Path) -> None:
    """Alpha carbons alone, no chain, the entry's name and line numbers at the end of lines."""
    atoms = [
        replace(atom, chain="")
        for atom in rows(SEQUENCE)
        if atom.name == "CA" and atom.place not in (10, 11)
    ]
    lines = pdb_text(atoms, replace(HEADER, chain="")).splitlines()
    old = "\n".join(f"{line[:70]:<72}9ABC{count:>4}" for count, line in enumerate(lines, start=998))
    chain = read(tmp_path, old, "pdb9abc.ent")
    assert (chain.name, chain.sequence) == ("", SEQUENCE)
    assert np.flatnonzero(np.isnan(chain.backbone[:, 1, 0])).tolist() == [9, 10]
    with pytest.raises(UserError, match="unnamed chain: SEQRES lists 13 residues and says that"):
        read(tmp_path, old.replace("SEQRES   2", "REMARK   2"), "pdb9abc.ent")


def test_the_only_sequence_is_that_of_the_only_protein(tmp_path: Path) -> None:
    kept = [atom for atom in rows(SEQUENCE) if atom.place not in (10, 11)]
    stated = Header(sequence=HEADER.sequence, chain=" ")
    assert read(tmp_path, pdb_text(kept, stated)).sequence == SEQUENCE
