"""Entries of the archive: their own description and Biopython's reading agree with ours."""

import csv
import gzip
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from Bio import SeqIO
from Bio.PDB.MMCIFParser import MMCIFParser
from Bio.PDB.PDBParser import PDBParser
from numpy.typing import NDArray

from esm1b.evaluation.structures.files import read_chain
from esm1b.evaluation.structures.geometry import impute_beta_carbons
from tests.evaluation.structure_rows import structure_rows
from tests.evaluation.structure_text import NAMES

REAL_DATA = os.environ.get("ESM1B_REAL_DATA")
FOLDER = Path(REAL_DATA or "") / "structures"
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(
        REAL_DATA is None, reason="ESM1B_REAL_DATA names no directory of real proteins"
    ),
]


def biopython_alpha_carbons(path: Path, text: str, chain: str) -> list[NDArray[np.float64]]:
    """Return CA of the residues of the polymer, `[residues][3]`, of the first model."""
    is_cif = "cif" in path.name
    parser: Any = MMCIFParser(auth_residues=False, QUIET=True) if is_cif else PDBParser(QUIET=True)
    model: Any = next(iter(parser.get_structure("", io.StringIO(text))))
    return [
        np.array(residue["CA"].get_coord(), dtype=np.float64)
        for residue in model[chain]
        if "CA" in residue and residue.id[0] in (" ", "H_MSE", "H_PCA")
    ]


def test_biopython_reads_the_same() -> None:
    paths = sorted(FOLDER.rglob("*.gz"))
    assert len(paths) == 32
    for path in paths:
        ours = read_chain(path)
        assert ours is not None
        text = gzip.decompress(path.read_bytes()).decode("latin-1")
        form = "cif-seqres" if "cif" in path.name else "pdb-seqres"
        stated = [str(record.seq) for record in SeqIO.parse(io.StringIO(text), form)]
        # Not so: places that two residue types share twice, and a parent that the entry states.
        if path.name not in ("1en2.cif.gz", "1fus.pdb.gz"):
            assert ours.sequence in stated, path.name
        alphas = ours.backbone[np.isfinite(ours.backbone[:, 1, 0]), 1]
        theirs = np.array(biopython_alpha_carbons(path, text, ours.name))
        np.testing.assert_allclose(alphas, theirs, atol=2e-4, err_msg=path.name)


def test_real_entries_agree_with_their_description() -> None:
    read = {row["id"]: row for row in structure_rows(FOLDER)}
    sequences = {
        record.split("\n", 1)[0]: record.split("\n", 1)[1].replace("\n", "")
        for record in (FOLDER / "chains.fasta").read_text().split(">")[1:]
    }
    with (FOLDER / "chains.csv").open() as file:
        described = [entry for entry in csv.DictReader(file) if entry["main"] == "1"]
    assert len(described) == len(read) == 32
    for entry in described:
        identifier = f"{entry['pdb_id']}_{entry['chain']}"
        observed = read[identifier]["observed"]
        assert read[identifier]["sequence"] == sequences[identifier]
        assert len(observed) == int(entry["seqres_length"]), identifier
        assert observed.count("1") == int(entry["observed_ca"]), identifier
        assert observed.count("0") == int(entry["missing_residues"]), identifier


def test_missing_residues_are_where_the_entries_say() -> None:
    """PDB entries list them in REMARK 465, by author number: those before and after the chain."""
    for path in sorted((FOLDER / "pdb").glob("*.gz")):
        chain = read_chain(path)
        assert chain is not None
        missing = [
            line.split()[2]
            for line in gzip.decompress(path.read_bytes()).decode().splitlines()
            if line.startswith("REMARK 465")
            and len(line.split()) == 5
            and line.split()[3] == chain.name
            and line.split()[2] in NAMES.values()
        ]
        unseen = np.flatnonzero(np.isnan(chain.backbone[:, 1, 0]))
        assert [NAMES[chain.sequence[place]] for place in unseen] == missing, path.name


def test_imputed_beta_carbons_are_near_the_real_ones() -> None:
    distances = []
    for path in sorted(FOLDER.rglob("*.gz")):
        chain = read_chain(path)
        assert chain is not None
        nitrogen, alpha, carbonyl, beta = chain.backbone.transpose(1, 0, 2)
        imputed = impute_beta_carbons(nitrogen, alpha, carbonyl)
        distances.append(np.linalg.norm(imputed - beta, axis=1))
    assert np.nanmedian(np.concatenate(distances)) < 0.1
    assert np.nanpercentile(np.concatenate(distances), 99) < 0.4
