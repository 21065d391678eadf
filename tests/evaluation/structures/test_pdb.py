import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from esm1b.errors import UserError
from tests.evaluation.structure_text import HEADER, SEQUENCE, lacks_two, pdb_text, read, rows

SHOWN = [atom for atom in rows(SEQUENCE) if atom.place not in (10, 11)]
PDB = pdb_text(SHOWN, HEADER)
FIRST, SECOND = PDB.splitlines(keepends=True)[:2]  # SEQRES


@pytest.mark.parametrize(
    "content",
    [
        PDB,
        f"HEADER    HYDROLASE                               12-DEZ-20   9ABC\n{PDB}",
        f"HEADER    HYDROLASE                               00-XXX-00   9ABC\n{PDB}",
        f"REVDAT   1   12-011-20 9ABC    0\nCRYST1   x\nREMARK 465 \nTITLE     \u00e9\x85\n{PDB}",
        PDB.replace("END\n", "TER\nCONECT\nMASTER\nEND\n"),
        re.sub("(?m)^(ATOM.{50}).*", r"\1", PDB),
        re.sub("(?m)^(ATOM.{62}).*", r"\1", PDB),
        PDB.replace(" A ", "   "),  # no chain
        PDB.replace(" A ", "AB "),  # a chain of two characters
        "\n".join(f"{line:<72}9ABC {k:>3}" for k, line in enumerate(PDB.splitlines())),
        "\n".join(f"{line.replace(' A ', '   '):<72}9ABC" for line in PDB.splitlines()),
        PDB.replace("ATOM     ", "ATOM  A1B"),  # hybrid-36 serial numbers
        PDB.replace("ATOM      ", "ATOM  1000"),
        PDB.replace("ATOM  ", "atom  "),
        PDB.replace("  1.00  0.00", " " * 12),
        PDB.replace("  1.00  0.00", "******  0.00"),
        f"MODEL        1\n{PDB[:-4]}ENDMDL\nMODEL        2\n{pdb_text(rows(SEQUENCE[:20]))}",
        f"MODEL        1\n{PDB[:-4]}MODEL        2\n{pdb_text(rows(SEQUENCE[:20]))}",
        f"{PDB}{pdb_text(rows(SEQUENCE[::-1]))}",  # frames of a trajectory
    ],
)
def test_what_is_not_needed_stops_nothing(tmp_path: Path, content: str) -> None:
    assert lacks_two(read(tmp_path, content))


@pytest.mark.parametrize(
    "stated",
    [
        SECOND + FIRST,
        FIRST + FIRST + SECOND,
        FIRST + SECOND + FIRST + SECOND,
        FIRST.replace("SEQRES   1 A   24", "SEQRES     A     ") + SECOND,
        (FIRST + SECOND).replace("A   24", "A     "),
        (FIRST + SECOND).lower().replace(" a ", " A "),
        "\n".join(f"{line:<72}9ABC  12" for line in (FIRST + SECOND).splitlines()) + "\n",
    ],
)
def test_the_stated_sequence_in_another_form(tmp_path: Path, stated: str) -> None:
    assert lacks_two(read(tmp_path, PDB.replace(FIRST + SECOND, stated)))


@pytest.mark.parametrize(
    ("stated", "listed"),
    [
        (FIRST, 13),
        (SECOND, 11),
        (FIRST.replace("ALA", "   ") + SECOND, 23),
        (FIRST + SECOND + SECOND.replace("  2 ", "  3 "), 35),
    ],
)
def test_a_stated_sequence_that_contradicts_itself(
    tmp_path: Path, stated: str, listed: int
) -> None:
    reason = f"chain A: SEQRES lists {listed} residues and says that there are 24"
    with pytest.raises(UserError, match=reason):
        read(tmp_path, PDB.replace(FIRST + SECOND, stated))


def test_an_unknown_coordinate_is_of_an_unknown_atom(tmp_path: Path) -> None:
    for unknown in ("        ", "********", "     nan"):
        chain = read(tmp_path, PDB.replace("   2.280", unknown, 1))  # CA of the first residue
        assert chain.sequence == SEQUENCE
        assert np.isnan(chain.backbone[0]).all(axis=1).tolist() == [False, True, False, False]


def test_segments_are_the_chains_where_none_is_named(tmp_path: Path) -> None:
    atoms = [replace(atom, chain="") for atom in rows(SEQUENCE)]
    lines = [
        f"{line[:72]:<72}{segment:<4}{line[76:]}"
        for segment in ("PROA", "PROB")
        for line in pdb_text(atoms).splitlines()[:-1]
    ]
    chain = read(tmp_path, "\n".join([*lines, "END", ""]))
    assert (chain.name, chain.sequence) == ("PROA", SEQUENCE)


def test_a_chain_goes_on_after_ter_with_higher_numbers(tmp_path: Path) -> None:
    lines = pdb_text(SHOWN).splitlines(keepends=True)
    gap = next(k for k, line in enumerate(lines) if " 12 " in line[20:30])
    chain = read(tmp_path, "".join([*lines[:gap], "TER\n", *lines[gap:]]))
    assert chain.sequence == SEQUENCE[:9] + SEQUENCE[11:]
