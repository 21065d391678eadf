"""The trained network, untrained ones and baselines, scored and compared on the same proteins."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, Final

import numpy as np
import pyarrow as pa
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
from esm1b.evaluation.networks import networks_of
from esm1b.evaluation.structures.proteins import Protein, protein_columns, subsets_of
from esm1b.evaluation.summary import Summary
from esm1b.inference.model import Model

_log = logging.getLogger(__name__)

# The other precisions are reported with their intervals, without a comparison.
_COMPARED: Final = ("precision_at_contacts", "precision_at_L_long")
_GROUPS_DRAWN: Final = {"test": 4, "unseen": 2}  # of each kind, as maps in the figures

Precisions = NDArray[np.float64]
"""`[proteins, PRECISIONS]`, NaN where undefined or failed."""


Fits = Mapping[str, Sequence[ContactRegression]]
"""The regressions by name of the networks, the trained one first."""


def score_contacts(
    model: Model,
    fit: Sequence[Protein],
    rest: Sequence[Protein],
    *,
    untrained: int,
    jacobian: int,
    regularisation: Regularisation,
    seed: int,
) -> tuple[dict[str, Precisions], Fits]:
    """Fit on the proteins `fit` and score the `rest`, for every network and baseline.

    With `cross-validate` each network chooses its own C. The trained one's categorical Jacobian
    scores at most `jacobian` proteins, the first of each group, then the second, and so on.
    """
    nothing = np.full((len(rest), len(PRECISIONS)), np.nan)
    fits: dict[str, list[ContactRegression]] = {}
    found: dict[str, list[Precisions]] = {}
    for name, network in networks_of(model, untrained, seed):
        others = fits.setdefault(name, [])
        label = name if name == "trained" else f"{name} {len(others) + 1}"
        attend = network.attentions
        regression = fit_contact_regression(attend, fit, regularisation=regularisation, seed=seed)
        others.append(regression)
        if regression.failed:
            _log.warning("%s: %s", label, regression.failed)
            continue
        shown = tqdm(rest, desc=f"contacts, {label}", unit="protein", disable=None)
        scored = _precisions(shown, partial(_probabilities, regression, attend))
        found.setdefault(name, []).append(scored)
    precisions = {name: np.mean(found.get(name, [nothing]), axis=0) for name in fits}
    if jacobian:
        precisions["jacobian"] = _jacobian_precisions(model, rest, jacobian)
    prior = separation_prior(fit)
    baselines: dict[str, Callable[[Protein], NDArray[np.float64]]] = {
        "mean_map": lambda protein: mean_map(fit, prior, protein.residues.size),
        "separation_prior": lambda protein: separation_map(prior, protein.residues.size),
        # Equal scores everywhere count by expectation: the density of contacts.
        "random_pairs": lambda protein: np.zeros((protein.residues.size,) * 2),
    }
    precisions |= {name: _precisions(rest, score) for name, score in baselines.items()}
    return precisions, fits


def summarise_contacts(
    precisions: Mapping[str, Precisions],
    fits: Fits,
    proteins: Sequence[Protein],
    unit: str,
    seed: int,
) -> tuple[dict[str, Any], pa.Table]:
    """Return `metrics` and `comparisons`, and the table with a row per protein and model.

    Baselines are compared on the same proteins; test is compared with unseen too. A precision that
    is not defined is null in the table.
    """
    models = list(precisions)
    summary = Summary(
        values={
            name: {model: (found[:, column],) for model, found in precisions.items()}
            for column, name in enumerate(PRECISIONS)
        },
        groups=np.array([protein.group for protein in proteins], dtype=object),
        subsets=subsets_of(proteins),
        unit=unit,
        seed=seed,
        failures={
            name: found[0].failed for name, found in fits.items() if all(f.failed for f in found)
        },
    )
    comparisons = [
        summary.comparison(*each) for each in product(_COMPARED, summary.subsets, models[1:])
    ]
    learned = [model for model in ("trained", "jacobian") if model in models]
    if len(summary.subsets) == 2:
        comparisons += [
            summary.comparison(name, "test", model, "unseen", model=model)
            for name, model in product(_COMPARED, learned)
        ]
    if "jacobian" in models:
        comparisons += [
            summary.comparison(name, subset, "separation_prior", model="jacobian")
            for name, subset in product(_COMPARED, summary.subsets)
        ]
    results = {
        "metrics": [
            summary.metric(name, model, subset)
            for name, subset, model in product(PRECISIONS, summary.subsets, models)
        ],
        "comparisons": comparisons,
    }
    table = protein_columns(proteins, models)
    columns = np.concatenate(list(precisions.values())).T
    for name, column in zip(PRECISIONS, columns, strict=True):
        table[name] = pa.array(column, from_pandas=True)
    return results, pa.table(table)


def map_table(model: Model, regression: ContactRegression, proteins: Sequence[Protein]) -> pa.Table:
    """Return the probabilities of the first protein of the first groups of each kind.

    A row per protein; `probability` is its map, row by row.
    """
    drawn = [] if regression.failed else _proteins_to_draw(proteins)
    maps = [_probabilities(regression, model.attentions, protein).ravel() for protein in drawn]
    indices = pa.list_(pa.int32())
    return pa.table(
        {
            "id": pa.array([protein.id for protein in drawn], pa.string()),
            "kind": pa.array([protein.kind for protein in drawn], pa.string()),
            "length": pa.array([protein.residues.size for protein in drawn], pa.int32()),
            "observed": pa.array([each.observed.tolist() for each in drawn], pa.list_(pa.bool_())),
            "contact_i": pa.array([protein.contacts[0] for protein in drawn], indices),
            "contact_j": pa.array([protein.contacts[1] for protein in drawn], indices),
            "probability": pa.array(maps, pa.list_(pa.float32())),
        }
    )


def _precisions(
    proteins: Iterable[Protein], score: Callable[[Protein], NDArray[np.floating]]
) -> Precisions:
    """Return the precisions of the scores `[length, length]` of each protein."""
    rows = (
        contact_precisions(score(protein), protein.contact_map(), protein.observed)
        for protein in proteins
    )
    return np.array([[row[name] for name in PRECISIONS] for row in rows])


def _probabilities(
    regression: ContactRegression, attend: Attend, protein: Protein
) -> NDArray[np.float64]:
    return contact_probabilities(regression, attend(protein.residues))


def _jacobian_precisions(model: Model, proteins: Sequence[Protein], count: int) -> Precisions:
    """Return the precisions of `count` proteins by categorical Jacobian, NaN for the others."""
    seen: Counter[str] = Counter()
    order = []
    for place, protein in enumerate(proteins):
        order.append((seen[protein.group], place))
        seen[protein.group] += 1
    chosen = sorted(place for _, place in sorted(order)[:count])
    model.log_jacobian_cost([proteins[place].residues.size for place in chosen])
    shown = tqdm(chosen, desc="contacts, jacobian", unit="protein", disable=None)
    precisions = np.full((len(proteins), len(PRECISIONS)), np.nan)
    precisions[chosen] = _precisions(
        (proteins[place] for place in shown),
        lambda each: model.contacts(each.residues, method="jacobian"),
    )
    return precisions


def _proteins_to_draw(proteins: Sequence[Protein]) -> list[Protein]:
    """Return the first protein of the first groups of each kind: not selected by appearance."""
    chosen = []
    for kind, count in _GROUPS_DRAWN.items():
        first = {protein.group: protein for protein in proteins[::-1] if protein.kind == kind}
        chosen += [first[group] for group in sorted(first)[:count]]
    return chosen
