"""Variants of synthetic families with their exact effects, in the layout of ProteinGym."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from esm1b.alphabet import AMINO_ACIDS, FIRST_AMINO_ACID, encode
from esm1b.read_back import check_count
from esm1b.synthetic.families import SyntheticFamily
from esm1b.synthetic.potts import STATES

ASSAYS_DIRECTORY: Final = "assays"
REFERENCE_FILE: Final = "DMS_substitutions.csv"
"""ProteinGym's name of the table with a row per assay."""

_COLUMNS: Final = ("mutant", "mutated_sequence", "DMS_score", "DMS_score_bin", "site_independent")
_DOUBLE_MUTANTS: Final = 500  # of each kind of pair: about as many as there are single ones
_SEPARATION: Final = 6  # residues between the sites of any pair, as of contacts
_DECIMALS: Final = 6  # a hundred times what float32 can tell apart


@dataclass(frozen=True, kw_only=True, eq=False)
class _Variants:
    """Substitutions of one sequence: sites and amino-acid indices, both `[variants, mutations]`."""

    sites: NDArray[np.int64]
    residues: NDArray[np.int64]


def write_assays(
    folder: Path, family: SyntheticFamily, wild_type: str, generator: np.random.Generator
) -> list[dict[str, Any]]:
    """Write three assays of `wild_type`, a sequence of the family, and return their references.

    One has all single mutants, the others 500 double mutants each: of pairs in contact, which the
    family's model couples, and of others at least 6 residues apart. `DMS_score` is the exact log
    probability (nats) of the mutant minus that of the wild type; `site_independent` is the same
    of the sites' marginals, the best score without couplings; `DMS_score_bin` is 1 above the
    median.
    """
    native = encode(wild_type) - FIRST_AMINO_ACID
    contacts = family.potts.edges
    others = np.stack(np.triu_indices(family.potts.length, _SEPARATION), axis=1)
    others = others[~(others[:, None] == contacts).all(axis=2).any(axis=1)]
    assays = {
        "single mutants": _mutants(native, np.arange(len(native))[:, None]),
        "contact pairs": _drawn(_mutants(native, contacts), generator),
        "other pairs": _drawn(_mutants(native, others), generator),
    }
    return [
        _write_assay(folder, family, wild_type, category, variants)
        for category, variants in assays.items()
    ]


def write_reference(folder: Path, references: Sequence[dict[str, Any]]) -> None:
    """Write the table of all assays in `folder`."""
    rows = (reference.values() for reference in references)
    _write_csv(folder / REFERENCE_FILE, tuple(references[0]), rows, len(references))


def _mutants(native: NDArray[np.uint8], sites: NDArray[np.int64]) -> _Variants:
    """Return all mutants of `native` with substitutions at each row of `sites`."""
    mutations = sites.shape[1]
    others = np.indices((STATES - 1,) * mutations).reshape(mutations, -1).T
    all_sites = np.repeat(sites, len(others), axis=0)
    residues = np.tile(others, (len(sites), 1))
    return _Variants(sites=all_sites, residues=residues + (residues >= native[all_sites]))


def _drawn(variants: _Variants, generator: np.random.Generator) -> _Variants:
    count = min(_DOUBLE_MUTANTS, len(variants.sites))
    chosen = np.sort(generator.choice(len(variants.sites), count, replace=False))
    return _Variants(sites=variants.sites[chosen], residues=variants.residues[chosen])


def _write_assay(
    folder: Path, family: SyntheticFamily, wild_type: str, category: str, variants: _Variants
) -> dict[str, Any]:
    native, (count, mutations) = encode(wild_type) - FIRST_AMINO_ACID, variants.sites.shape
    mutants = np.tile(native, (1 + count, 1))  # the first is the wild type
    mutants[np.arange(1, 1 + count)[:, None], variants.sites] = variants.residues
    exact, _ = family.potts.conditionals(mutants, np.zeros(mutants.shape, dtype=np.bool_))
    profile = np.log(family.potts.marginals)[np.arange(len(native)), mutants].sum(axis=1)
    score, independent = (np.round(each[1:] - each[0], _DECIMALS) for each in (exact, profile))
    cutoff = float(np.round(np.median(score), _DECIMALS))
    letters = np.array(list(AMINO_ACIDS))
    names = (
        ":".join(
            f"{wild_type[site]}{site + 1}{letters[residue]}"
            for site, residue in zip(sites, residues, strict=True)
        )
        for sites, residues in zip(variants.sites, variants.residues, strict=True)
    )
    sequences = map("".join, letters[mutants[1:]])
    columns = (names, sequences, score.tolist(), (score > cutoff).astype(int), independent.tolist())
    name = f"{family.name}_{category.replace(' ', '_')}"
    _write_csv(folder / f"{name}.csv", _COLUMNS, zip(*columns, strict=True), count)
    return {
        "DMS_id": name,
        "DMS_filename": f"{name}.csv",
        "UniProt_ID": family.name,
        "target_seq": wild_type,
        "seq_len": len(wild_type),
        "includes_multiple_mutants": mutations > 1,
        "DMS_total_number_mutants": count,
        "DMS_number_single_mutants": count if mutations == 1 else 0,
        "DMS_number_multiple_mutants": count if mutations > 1 else 0,
        "DMS_binarization_cutoff": cutoff,
        "DMS_binarization_method": "median",
        "coarse_selection_type": category,
        "kind": family.kind,
    }


def _write_csv(
    path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]], count: int
) -> None:
    with path.open("w", encoding="ascii", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    with path.open("rb") as file:
        check_count(path, sum(1 for _ in file) - 1, count, "rows")
