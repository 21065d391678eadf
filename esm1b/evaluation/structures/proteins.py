"""Proteins of known structure, and which of them fit a probe and which test it."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet

from esm1b.errors import UserError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Protein:
    """A row of the structure table.

    `group` is the unit of the bootstrap. `kind` is `fit`, `test` or `unseen` (`validation`, which
    fits too, in a table of secondary structure), or None where nobody has chosen. `residues` are
    tokens `[length]`, `observed` those with coordinates `[length]`; `contacts` holds i and j of the
    pairs in contact `[2, contacts]`, counted from 0 with i < j; `ss3` has H, E or C per residue.
    """

    id: str
    group: str
    kind: str | None
    residues: NDArray[np.uint8]
    observed: NDArray[np.bool_]
    contacts: NDArray[np.int64]
    ss3: str | None = None

    def contact_map(self) -> NDArray[np.bool_]:
        """Return the contacts as a symmetric map `[length, length]`."""
        contact_map = np.zeros((self.residues.size, self.residues.size), dtype=bool)
        first, second = self.contacts
        contact_map[first, second] = contact_map[second, first] = True
        return contact_map


def fitting_length(proteins: Sequence[Protein], longest: int) -> list[Protein]:
    """Return the proteins of at most `longest` residues: the model has no positions for more."""
    kept = [protein for protein in proteins if protein.residues.size <= longest]
    if left_out := len(proteins) - len(kept):
        message = "left out %d of %d proteins: longer than %d residues"
        _log.info(message, left_out, len(proteins), longest)
    return kept


def share_groups(proteins: Sequence[Protein]) -> list[Protein]:
    """Return the proteins with equal sequences in one group, and so the groups that they join.

    It has the name of the first of them. Equal sequences are one item of evidence, and must not
    stand on both sides of a split that is drawn.
    """
    joined = DisjointSet(protein.group for protein in proteins)
    for protein in proteins:
        sequence = protein.residues.tobytes()
        joined.add(sequence)
        joined.merge(protein.group, sequence)
    first: dict[str, str] = {}
    for part in joined.subsets():
        names = [member for member in part if isinstance(member, str)]
        first |= dict.fromkeys(names, min(names))
    return [replace(protein, group=first[protein.group]) for protein in proteins]


def overlap(fitted: Sequence[Protein], tested: Sequence[Protein]) -> dict[str, int]:
    """Return for the protocol how many tested proteins are no independent ones; log if any.

    They share sequence or group with a fitted one, which only a split that the data state lets
    happen.
    """
    sequences = {protein.residues.tobytes() for protein in fitted}
    groups = {protein.group for protein in fitted}
    equal = sum(protein.residues.tobytes() in sequences for protein in tested)
    related = sum(protein.group in groups for protein in tested)
    if related:
        message = "%d of %d proteins to test have the sequence of a fitted one, %d its group"
        _log.warning(message, equal, len(tested), related)
    return {"test_sequences_also_fitted": equal, "test_proteins_of_fitted_groups": related}


def draw_kinds(
    proteins: Sequence[Protein], *, fit_proteins: int, seed: int, source: Path
) -> list[Protein]:
    """Return the proteins with a kind each; a table that states kinds keeps them.

    Otherwise whole groups are taken, in the order of a hash of seed and group, until there are
    `fit_proteins` to fit; the rest are `test`. The order of the proteins does not matter, and an
    added protein changes the kind of few others.

    Raises:
        UserError: kinds are stated for some rows only, or no protein is left to fit or to test.
    """
    stated = [protein.kind is not None for protein in proteins]
    if any(stated) and not all(stated):
        nameless = next(protein.id for protein in proteins if protein.kind is None)
        raise UserError(
            f"{source}: row {nameless}: kind or split is empty where other rows state one; "
            "expected one in every row or in none"
        )
    if any(stated):
        kinds = {protein.kind for protein in proteins}
        for needed, split in (("fit", "train"), ("test", "test")):
            if needed not in kinds:
                raise UserError(
                    f"{source}: no row of kind {needed} (split {split}); expected at least one"
                )
        return list(proteins)
    members: dict[str, list[str]] = {}
    for protein in proteins:
        members.setdefault(protein.group, []).append(protein.id)
    fit: set[str] = set()
    for group in sorted(members, key=lambda group: keyed_order(seed, group)):
        if len(fit) < fit_proteins:
            fit.update(members[group])
    if fit_proteins < 1 or len(fit) >= len(proteins):
        raise UserError(
            f"{source}: {len(proteins)} proteins in {len(members)} groups, fit_proteins "
            f"{fit_proteins}; expected at least one group to fit and one left for the test"
        )
    return [replace(protein, kind="fit" if protein.id in fit else "test") for protein in proteins]


def unit_of(proteins: Sequence[Protein]) -> str:
    """Return the word for a group: `family`, or `protein` where each holds one sequence alone."""
    members: dict[str, list[Protein]] = {}
    for protein in proteins:
        members.setdefault(protein.group, []).append(protein)
    is_protein = all(
        name in {protein.id for protein in group}
        and len({protein.residues.tobytes() for protein in group}) == 1
        for name, group in members.items()
    )
    return "protein" if is_protein else "family"


def subsets_of(proteins: Sequence[Protein]) -> dict[str, NDArray[np.bool_]]:
    """Return which proteins are of kind test, and which unseen, `[proteins]`, if there are any."""
    kinds = np.array([protein.kind for protein in proteins])
    return {name: kinds == name for name in ("test", "unseen") if (kinds == name).any()}


def protein_columns(proteins: Sequence[Protein], models: Sequence[str]) -> dict[str, Any]:
    """Return the first columns of a table with a row for each model and, within it, protein."""
    rows = [(model, protein) for model in models for protein in proteins]
    return {
        "id": [protein.id for _, protein in rows],
        "group": [protein.group for _, protein in rows],
        "kind": [protein.kind for _, protein in rows],
        "length": pa.array([protein.residues.size for _, protein in rows], pa.int32()),
        "model": [model for model, _ in rows],
    }


def keyed_order(seed: int, name: str) -> bytes:
    """Return a sort key that puts names in a random order, independent of the other names."""
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
