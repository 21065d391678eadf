"""The first thing that a reader sees: a few numbers, each beside what it must beat."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from esm1b.evaluation.measured import MODELS, Evaluation
from esm1b.report.tables import number_text, subset_name

# By evaluation: title, metric, subset, decimals, and what stands beside (model, subset).
_SHOWN: Final = (
    (
        "perplexity",
        "Masked perplexity",
        "perplexity_mask_positions_20",
        ("validation",),
        2,
        ("residue_frequencies", "site_independent", "exact_optimum"),
    ),
    (
        "contacts",
        "Contact precision",
        "precision_at_contacts",
        ("test", "unseen"),
        3,
        ("untrained", "separation_prior"),
    ),
    (
        "secondary_structure",
        "Structure accuracy",
        "three_state_accuracy",
        ("test", "unseen"),
        3,
        ("one_hot_window", "untrained", "majority_class"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Highlight:
    """A number of the trained model; `beside` holds (what, its number)."""

    title: str
    value: str
    units: str
    beside: Sequence[tuple[str, str]]


def highlights(evaluations: Mapping[str, Evaluation]) -> list[Highlight]:
    """Return a highlight for each evaluation that has a value, in the order of the page."""
    found = []
    for kind, title, name, subsets, decimals, others in _SHOWN:
        if kind not in evaluations:
            continue
        evaluation = evaluations[kind]
        main = next((each for each in subsets if each in evaluation.subsets(name)), subsets[0])
        trained = evaluation.metric(name, "trained", main)
        if trained is None:
            continue
        beside = [
            (MODELS[model], evaluation.metric(name, model, main))
            for model in others
            if model in evaluation.models(name)
        ]
        if kind == "contacts" and main == "test" and "unseen" in evaluation.subsets(name):
            never_seen = evaluation.metric(name, "trained", "unseen")
            beside.insert(0, ("on families never seen", never_seen))
        found.append(
            Highlight(
                title=title,
                value="failed" if trained.value is None else number_text(trained.value, decimals),
                units=f"{subset_name(main)}, {trained.units}",
                beside=[
                    (label, number_text(number.value, decimals))
                    for label, number in beside
                    if number is not None and number.value is not None
                ],
            )
        )
    return found
