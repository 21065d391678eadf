import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from esm1b.errors import UserError
from tests.evaluation.structure_text import (
    HEADER,
    SEQUENCE,
    cif_text,
    lacks_two,
    read,
    rows,
    with_item,
)

SHOWN = [atom for atom in rows(SEQUENCE, first=101) if atom.place not in (10, 11)]
CIF = cif_text(SHOWN, HEADER)
ASYM = "loop_\n_struct_asym.id\n_struct_asym.entity_id\nA 1\nB 2\n#\n"
OTHER = "".join(f"2 {place} GLY n\n" for place in range(1, 31))
TWO_ENTITIES = with_item(CIF, "label_entity_id", None).replace("1 1 MET", f"{OTHER}1 1 MET")


@pytest.mark.parametrize("value", [None, ".", "?"])
@pytest.mark.parametrize(
    "item",
    [
        *("group_PDB", "id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id"),
        *("label_asym_id", "label_entity_id", "label_seq_id", "pdbx_PDB_ins_code", "occupancy"),
        *("B_iso_or_equiv", "auth_seq_id", "auth_comp_id", "auth_asym_id", "auth_atom_id"),
        "pdbx_PDB_model_num",
    ],
)
def test_an_item_that_is_absent_or_null(tmp_path: Path, item: str, value: str | None) -> None:
    assert lacks_two(read(tmp_path, with_item(CIF, item, value)))


@pytest.mark.parametrize(
    "content",
    [
        CIF.replace("_atom_site.", "_Atom_Site.").replace("Cartn", "CARTN"),
        CIF.upper(),
        CIF.replace("data_9XYZ", "data_my protein \u00e9\n#"),
        CIF.replace("data_9XYZ", "data_9XYZ\nloop_\n_citation.id\n_citation.title\n1 2 3\n#"),
        CIF.replace("data_9XYZ", "data_9XYZ\n_struct.title 'An unfinished title\n#"),
        CIF.replace("data_9XYZ", "data_one\n_cell.length_a 1\n_cell.length_a 2\ndata_two"),
        CIF + CIF.replace("data_9XYZ", "data_other"),
        re.sub(r"(ATOM .*) 1\n", r"\1 7\n", CIF)
        + "".join(f"{line[:-1]}8\n" for line in CIF.splitlines() if line.startswith("ATOM")),
        CIF.replace("_entity_poly_seq.num", "_entity_poly_seq.number"),
        CIF.replace("_entity_poly_seq.entity_id", "_entity_poly_seq.entity"),
        CIF.replace("1 3 VAL n\n", "").replace("1 1 MET n\n", "1 3 VAL n\n1 1 MET n\n"),
        CIF.replace("1 3 VAL n\n", "1 3 VAL n\n1 3 VAL n\n"),
        CIF.replace("1 3 VAL n\n", "1 3 VAL y\n1 3 ILE y\n"),
        TWO_ENTITIES + ASYM,
        CIF.removesuffix("#\n"),
    ],
)  # fmt: skip
def test_what_the_format_allows(tmp_path: Path, content: str) -> None:
    assert lacks_two(read(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            TWO_ENTITIES,
            "chain A: no entity id tells which sequence of entity_poly_seq belongs to it",
        ),
        (with_item(CIF, "label_entity_id", "7"), "entity_poly_seq does not list its entity 7"),
        (CIF.replace("1 3 VAL n\n", ""), "entity_poly_seq does not name each residue from 1 to 24"),
        (
            CIF.replace("1 3 VAL n\n", "1 3 ? n\n"),
            "entity_poly_seq does not name each residue from",
        ),
        (CIF.replace("1 1 MET n\n", ""), "entity_poly_seq does not name each residue from 1 to 24"),
        (
            with_item(with_item(CIF, "label_seq_id", "."), "auth_seq_id", "?"),
            "holds no protein residue",
        ),
        (with_item(CIF, "Cartn_x", "one"), "coordinates 'one .*' of an atom; expected three numb"),
        (with_item(CIF, "Cartn_x", None), "holds no protein residue; expected a PDB or mmCIF"),
        (CIF.replace("ATOM 9 ", "ATOM 9 9 "), "mmCIF: line 32: Wrong number of values in loop"),
    ],
)
def test_what_is_not_told_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"9abc\.pdb: .*{reason}") as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_some_residues_without_their_place(tmp_path: Path) -> None:
    """Then the author's numbers and the letters decide."""
    atoms = [replace(atom, place=None) if atom.place == 9 else atom for atom in SHOWN]
    assert lacks_two(read(tmp_path, cif_text(atoms, HEADER)))


def test_an_unknown_coordinate_is_of_an_unknown_atom(tmp_path: Path) -> None:
    for unknown in ("?", "."):
        chain = read(tmp_path, CIF.replace(" 2.280 ", f" {unknown} ", 1))  # CA of the first residue
        assert chain.sequence == SEQUENCE
        assert np.isnan(chain.backbone[0]).all(axis=1).tolist() == [False, True, False, False]
    assert lacks_two(read(tmp_path, CIF.replace(" 2.280 ", " 2.280(3) ")))


def test_the_author_names_the_chains(tmp_path: Path) -> None:
    assert read(tmp_path, with_item(CIF, "auth_asym_id", "AA1")).name == "AA1"
    assert read(tmp_path, with_item(CIF, "auth_asym_id", '"A\'"')).name == "A'"
    assert read(tmp_path, with_item(CIF, "auth_asym_id", None)).name == "A"
