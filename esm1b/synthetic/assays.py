"""Variants of synthetic families with their exact effects, in the layout of ProteinGym."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from esm1b.alphabet import FIRST_AMINO_ACID, decode, encode
from esm1b.read_back import check_count
from esm1b.synthetic.families import SyntheticFamily
from esm1b.synthetic.potts import STATES

ASSAYS_DIRECTORY: Final = "assays"
REFERENCE_FILE: Final = "DMS_substitutions.csv"
"""ProteinGym's name of the table with a row per assay."""

_COLUMNS: Final = ("mutant", "mutated_sequence", "DMS_score", "DMS_score_bin", "site_independent")
_DOUBLE_MUTANTS: Final = 200  # of the families' 5,000 or so on pairs in contact
_DECIMALS: Final = 6  # of scores in nats: what float32 can tell apart


def write_assay(
    folder: Path, family: SyntheticFamily, wild_type: str, generator: np.random.Generator
) -> dict[str, Any]:
    """Write variants of `wild_type`, a sequence of the family, and return the row of the reference.

    They are all single mutants and 200 double mutants of pairs in contact, which the model of the
    family couples. `DMS_score` is the exact log probability (nats) of the mutant minus that of the
    wild type; `site_independent` is the same under the marginals of the sites, the best score
    without couplings; `DMS_score_bin` is 1 above the median.
    """
    native = encode(wild_type) - np.uint8(FIRST_AMINO_ACID)
    singles = _mutants(native, np.arange(len(native))[:, None])
    doubles = _mutants(native, family.potts.edges)
    chosen = generator.choice(len(doubles), min(_DOUBLE_MUTANTS, len(doubles)), replace=False)
    everything = np.concatenate((native[None], singles, doubles[np.sort(chosen)]))
    exact, _ = family.potts.conditionals(everything, np.zeros(everything.shape, dtype=np.bool_))
    profile = np.log(family.potts.marginals)[np.arange(len(native)), everything].sum(axis=1)
    score, independent = (np.round(each[1:] - each[0], _DECIMALS) for each in (exact, profile))
    cutoff = float(np.round(np.median(score), _DECIMALS))
    sequences = [decode(mutant + FIRST_AMINO_ACID) for mutant in everything[1:]]
    columns = (
        [_mutations(wild_type, sequence) for sequence in sequences],
        sequences,
        score.tolist(),
        (score > cutoff).astype(int),
        independent.tolist(),
    )
    file = f"{family.name}.csv"
    _write_csv(folder / file, _COLUMNS, zip(*columns, strict=True), len(score))
    return {
        "DMS_id": family.name,
        "DMS_filename": file,
        "UniProt_ID": family.name,
        "target_seq": wild_type,
        "seq_len": len(wild_type),
        "includes_multiple_mutants": True,
        "DMS_total_number_mutants": len(score),
        "DMS_number_single_mutants": len(singles),
        "DMS_number_multiple_mutants": len(chosen),
        "DMS_binarization_cutoff": cutoff,
        "DMS_binarization_method": "median",
        "kind": family.kind,
    }


def write_reference(folder: Path, assays: Sequence[dict[str, Any]]) -> None:
    """Write the table with a row for each of `assays`, which are not none."""
    rows = (assay.values() for assay in assays)
    _write_csv(folder / REFERENCE_FILE, tuple(assays[0]), rows, len(assays))


def _mutants(native: NDArray[np.uint8], sites: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return every mutant with another residue at all sites of a row of `sites`."""
    count = sites.shape[1]
    others = np.indices((STATES - 1,) * count, dtype=np.uint8).reshape(count, -1).T
    mutants = np.tile(native, (len(sites) * len(others), 1))
    at = np.repeat(sites, len(others), axis=0)
    residues = np.tile(others, (len(sites), 1))
    mutants[np.arange(len(mutants))[:, None], at] = residues + (residues >= native[at])
    return mutants


def _mutations(wild_type: str, mutant: str) -> str:
    """Return the mutations in ProteinGym's notation: `A12G`, or `A12G:L30P`."""
    return ":".join(
        f"{before}{position}{after}"
        for position, (before, after) in enumerate(zip(wild_type, mutant, strict=True), start=1)
        if before != after
    )


def _write_csv(
    path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]], count: int
) -> None:
    with path.open("w", encoding="ascii", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    with path.open("rb") as written:
        check_count(path, sum(1 for _ in written) - 1, count, "rows")
