"""The trained network, untrained ones and baselines, scored on the same proteins."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from esm1b.evaluation.contacts.baselines import mean_map, separation_map, separation_prior
from esm1b.evaluation.contacts.precision import PRECISIONS, contact_precisions
from esm1b.evaluation.contacts.regression import (
    PUBLISHED_C,
    AttentionModel,
    ContactRegression,
    Regularisation,
    contact_probabilities,
    fit_contact_regression,
)
from esm1b.evaluation.structures.proteins import Protein

_log = logging.getLogger(__name__)

BASELINES: Final = ("untrained", "mean_map", "separation_prior", "random_pairs")

_MAPS: Final = {"test": 4, "unseen": 2}  # how many proteins of a kind get a map for the figures

Precisions = dict[str, NDArray[np.float64]]  # by name of precision, [proteins]


@dataclass(frozen=True, kw_only=True, eq=False)
class ContactScores:
    """What `score_contacts` found.

    `precisions` is by model, then by name, `[proteins]` in the order of `proteins` (those not used
    to fit); NaN where undefined or failed. `maps` holds the trained model's probabilities of the
    first protein of the first groups of each kind.
    """

    proteins: Sequence[Protein]
    precisions: Mapping[str, Precisions]
    trained: ContactRegression
    untrained: Sequence[ContactRegression]
    maps: Mapping[str, NDArray[np.float64]]

    def failed(self, model: str) -> str | None:
        """Return why a model has no values, or None."""
        if model == "trained":
            return self.trained.failed
        if model != "untrained":
            return None
        reasons = [regression.failed for regression in self.untrained]
        if not reasons:
            return "no untrained network was asked for"
        return reasons[0] if all(reasons) else None


def score_contacts(
    trained: AttentionModel,
    untrained: Sequence[Callable[[], AttentionModel]],
    proteins: Sequence[Protein],
    *,
    regularisation: Regularisation = PUBLISHED_C,
    seed: int = 0,
) -> ContactScores:
    """Fit and score the trained network, the untrained ones and the baselines.

    Args:
        trained: the network in question.
        untrained: makers of untrained networks, called one at a time to bound the memory.
        proteins: with a kind each; those of kind `fit` are fitted on, the others scored.
        regularisation: as in `evaluate_contacts`; each network chooses its own C.
        seed: of the folds.
    """
    fit = [protein for protein in proteins if protein.kind == "fit"]
    rest = [protein for protein in proteins if protein.kind != "fit"]
    drawn = _proteins_to_draw(rest)
    maps: dict[str, NDArray[np.float64]] = {}

    def fit_and_score(model: AttentionModel, label: str) -> tuple[ContactRegression, Precisions]:
        regression = fit_contact_regression(model, fit, regularisation=regularisation, seed=seed)
        if regression.failed:
            _log.warning("%s: %s", label, regression.failed)
            return regression, {name: np.full(len(rest), np.nan) for name in PRECISIONS}
        rows = []
        for protein in tqdm(rest, desc=f"contacts, {label}", unit="protein", disable=None):
            probabilities = contact_probabilities(regression, model.attentions(protein.residues))
            rows.append(_precisions_of(protein, probabilities))
            if label == "trained" and protein.id in drawn:
                maps[protein.id] = probabilities
        return regression, _by_name(rows)

    regression, precisions = fit_and_score(trained, "trained")
    others = [
        fit_and_score(make(), f"untrained {number}")
        for number, make in enumerate(untrained, start=1)
    ]
    prior = separation_prior(fit)
    return ContactScores(
        proteins=rest,
        precisions={
            "trained": precisions,
            "untrained": _mean_of_fits(others, len(rest)),
            "mean_map": _by_name(
                [
                    _precisions_of(protein, mean_map(fit, prior, protein.residues.size))
                    for protein in rest
                ]
            ),
            "separation_prior": _by_name(
                [
                    _precisions_of(protein, separation_map(prior, protein.residues.size))
                    for protein in rest
                ]
            ),
            # Equal scores everywhere count by expectation: the density of contacts.
            "random_pairs": _by_name(
                [
                    _precisions_of(protein, np.zeros((protein.residues.size,) * 2))
                    for protein in rest
                ]
            ),
        },
        trained=regression,
        untrained=[fit for fit, _ in others],
        maps=maps,
    )


def _precisions_of(protein: Protein, scores: NDArray[np.float64]) -> dict[str, float]:
    return contact_precisions(scores, protein.contact_map(), protein.observed)


def _by_name(rows: Sequence[Mapping[str, float]]) -> Precisions:
    return {name: np.array([row[name] for row in rows]) for name in PRECISIONS}


def _mean_of_fits(fits: Sequence[tuple[ContactRegression, Precisions]], count: int) -> Precisions:
    """Return the mean over the fits that kept a coefficient; NaN where none did."""
    kept = [precisions for regression, precisions in fits if not regression.failed]
    if not kept:
        return {name: np.full(count, np.nan) for name in PRECISIONS}
    return {
        name: np.mean(np.stack([precisions[name] for precisions in kept]), axis=0)
        for name in PRECISIONS
    }


def _proteins_to_draw(proteins: Sequence[Protein]) -> set[str]:
    """Return the first protein of the first groups of each kind: no choice by looks."""
    chosen: set[str] = set()
    for kind, count in _MAPS.items():
        first_of_group: dict[str, str] = {}
        for protein in proteins:
            if protein.kind == kind:
                first_of_group.setdefault(protein.group, protein.id)
        chosen.update(first_of_group[group] for group in sorted(first_of_group)[:count])
    return chosen
