"""The trained network, untrained ones and baselines, scored on the same proteins."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from esm1b.evaluation.contacts.baselines import mean_map, separation_map, separation_prior
from esm1b.evaluation.contacts.precision import PRECISIONS, contact_precisions
from esm1b.evaluation.contacts.regression import (
    Attend,
    ContactRegression,
    Regularisation,
    contact_probabilities,
    fit_contact_regression,
)
from esm1b.evaluation.structures.proteins import Protein

_log = logging.getLogger(__name__)

_MAPS: Final = {"test": 4, "unseen": 2}  # number of groups of a kind with a map for the figures

Precisions = Mapping[str, NDArray[np.float64]]
"""`[proteins]` by name, NaN where undefined or failed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ContactScores:
    """The precisions of every model.

    Attributes:
        proteins: proteins that were not used to fit.
        precisions: precisions by model, the trained one first.
        failures: reason why a model has no values, by model.
        trained: regression on the trained network.
        untrained: regression on each untrained network.
        maps: the trained model's probabilities by protein id, for the first protein of the first
            groups of each kind.
    """

    proteins: Sequence[Protein]
    precisions: Mapping[str, Precisions]
    failures: Mapping[str, str | None]
    trained: ContactRegression
    untrained: Sequence[ContactRegression]
    maps: Mapping[str, NDArray[np.float64]]


def score_contacts(
    trained: Attend,
    untrained: Sequence[Callable[[], Attend]],
    proteins: Sequence[Protein],
    *,
    regularisation: Regularisation,
    seed: int,
) -> ContactScores:
    """Fit and score the trained network, the untrained ones and the baselines.

    Args:
        trained: attention of the trained network.
        untrained: makers of untrained networks, called one at a time to bound the memory.
        proteins: proteins with a kind each; those of kind `fit` are fitted on, the others scored.
        regularisation: C, or `cross-validate`, by which each network chooses its own.
        seed: random seed of the folds.
    """
    fit = [protein for protein in proteins if protein.kind == "fit"]
    rest = [protein for protein in proteins if protein.kind != "fit"]
    nothing = {name: np.full(len(rest), np.nan) for name in PRECISIONS}

    def measure(attend: Attend, label: str) -> tuple[ContactRegression, Precisions]:
        regression = fit_contact_regression(attend, fit, regularisation=regularisation, seed=seed)
        if regression.failed:
            _log.warning("%s: %s", label, regression.failed)
            return regression, nothing
        shown = tqdm(rest, desc=f"contacts, {label}", unit="protein", disable=None)
        return regression, _precisions(
            shown, lambda each: contact_probabilities(regression, attend(each.residues))
        )

    regression, precisions = measure(trained, "trained")
    others = [measure(make(), f"untrained {number}") for number, make in enumerate(untrained, 1)]
    kept = [found for fitted, found in others if not fitted.failed]
    reason = others[0][0].failed if others else "no untrained network was asked for"
    prior = separation_prior(fit)
    return ContactScores(
        proteins=rest,
        precisions={
            "trained": precisions,
            # The mean over the fits that kept a coefficient.
            "untrained": {
                name: np.mean([found[name] for found in kept], axis=0) for name in PRECISIONS
            }
            if kept
            else nothing,
            "mean_map": _precisions(rest, lambda each: mean_map(fit, prior, each.residues.size)),
            "separation_prior": _precisions(
                rest, lambda each: separation_map(prior, each.residues.size)
            ),
            # Equal scores everywhere count by expectation: the density of contacts.
            "random_pairs": _precisions(rest, lambda each: np.zeros((each.residues.size,) * 2)),
        },
        failures={"trained": regression.failed, "untrained": None if kept else reason},
        trained=regression,
        untrained=[fitted for fitted, _ in others],
        maps={
            protein.id: contact_probabilities(regression, trained(protein.residues))
            for protein in ([] if regression.failed else _proteins_to_draw(rest))
        },
    )


def _precisions(
    proteins: Iterable[Protein], score: Callable[[Protein], NDArray[np.float64]]
) -> Precisions:
    """Return the precisions of the scores `[length, length]` of each protein."""
    rows = [
        contact_precisions(score(protein), protein.contact_map(), protein.observed)
        for protein in proteins
    ]
    return {name: np.array([row[name] for row in rows]) for name in PRECISIONS}


def _proteins_to_draw(proteins: Sequence[Protein]) -> list[Protein]:
    """Return the first protein of the first groups of each kind: no choice by looks."""
    chosen = []
    for kind, count in _MAPS.items():
        first_of_group: dict[str, Protein] = {}
        for protein in proteins:
            if protein.kind == kind:
                first_of_group.setdefault(protein.group, protein)
        chosen += [first_of_group[group] for group in sorted(first_of_group)[:count]]
    return chosen
