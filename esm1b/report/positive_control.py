"""The verdict on the demonstration: does the pipeline recover what was put into its data?

Every check is a comparison with a 95 % interval that must be on the right side of zero. It claims
that the pipeline finds couplings it was given and fails where it should; nothing about real
proteins.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from esm1b.evaluation.results import Evaluation, Number
from esm1b.report.catalogue import FACTS

# By name: the evaluation, the model, and the one that it must beat; the same is meant on families
# never seen. Structure is checked on families of the corpus that the probe was not fitted on. Those
# never seen are in the table only: a network that learns the profiles of its families knows none of
# them.
_CHECKS: Final = {
    "perplexity below the site-independent bound": ("perplexity", "trained", "site_independent"),
    "contacts above families never seen": ("contacts", "trained", "trained"),
    "contacts above separation prior": ("contacts", "trained", "separation_prior"),
    "contacts above mean map": ("contacts", "trained", "mean_map"),
    "contacts above untrained networks": ("contacts", "trained", "untrained"),
    "structure above one-hot window": ("secondary_structure", "trained", "one_hot_window"),
    "structure above untrained networks": ("secondary_structure", "trained", "untrained"),
    "structure above majority class": ("secondary_structure", "trained", "majority_class"),
    "effects of mutations above the score without couplings": (
        "variants",
        "trained",
        "site_independent",
    ),
    "effects of mutations above families never seen": ("variants", "trained", "trained"),
    "effects of mutations above untrained networks": ("variants", "trained", "untrained"),
    "Jacobian above families never seen": ("contacts", "jacobian", "jacobian"),
    "Jacobian above separation prior": ("contacts", "jacobian", "separation_prior"),
}
_COLUMNS: Final = 100  # of the verdict


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison; `difference` is trained minus the other, None where there is no number."""

    evaluation: str
    name: str
    passed: bool
    detail: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None


def has_control(evaluations: Mapping[str, Evaluation]) -> bool:
    """Return whether the corpus is synthetic, so that there is a truth to recover."""
    perplexity = evaluations.get("perplexity")
    return perplexity is not None and "exact_optimum" in perplexity.models(FACTS["perplexity"].name)


def passed(checks: Sequence[Check]) -> bool:
    """Return whether all of them passed; no check at all proves nothing."""
    return bool(checks) and all(check.passed for check in checks)


def verdict(checks: Sequence[Check]) -> str:
    """Return `positive control: PASSED`, or `FAILED` and which checks."""
    if passed(checks):
        return "positive control: PASSED"
    # With spaces that do not break, a name stays on one line.
    names = [check.name.replace(" ", "\N{NO-BREAK SPACE}") for check in checks if not check.passed]
    text = f"positive control: FAILED ({', '.join(names)})"
    lines = textwrap.fill(text, width=_COLUMNS, subsequent_indent="  ", break_on_hyphens=False)
    return lines.replace("\N{NO-BREAK SPACE}", " ")


def positive_control(evaluations: Mapping[str, Evaluation]) -> list[Check]:
    """Return every check of the control; one without its comparison has failed.

    Checks against untrained networks, and those of the Jacobian, are left out where the user asked
    for none.
    """
    checks = []
    for name, (kind, model, against) in _CHECKS.items():
        evaluation = evaluations.get(kind)
        measured = evaluation.models(FACTS[kind].name) if evaluation else []
        protocol = evaluation.content["protocol"] if evaluation else {}
        none_untrained = against == "untrained" and protocol.get("untrained_networks") == 0
        if not none_untrained and (model != "jacobian" or model in measured):
            checks.append(_check(name, kind, evaluation, model, against))
    return checks


def _check(name: str, kind: str, evaluation: Evaluation | None, model: str, against: str) -> Check:
    """Return whether the whole interval of the difference is on the right side of zero.

    Perplexities are compared by the difference of cross-entropies, which must be below zero.
    """
    check = partial(Check, evaluation=kind, name=name)
    if evaluation is None:
        return check(passed=False, detail="was not evaluated")
    facts, is_perplexity = FACTS[kind], kind == "perplexity"
    subset = "validation" if is_perplexity else "test"
    against_subset = "unseen" if against == model else subset
    trained = evaluation.metric(facts.name, model, subset)
    other = evaluation.metric(facts.name, against, against_subset)
    if against == "untrained" and trained and trained.value is not None:
        fits = evaluation.content.get("untrained_fits", [])
        if fits and all(fit["coefficients_kept"] == 0 for fit in fits):
            detail = (
                f"{_text(trained, facts.decimals)}; none of the {len(fits)} untrained networks "
                "kept a coefficient, so there is no contact that they predict"
            )
            return check(passed=True, detail=detail)
    difference = evaluation.comparison(facts.compared, subset, against, against_subset, model=model)
    if difference is None:
        return check(passed=False, detail="was not compared")
    if difference.value is None:
        return check(passed=False, detail=difference.failed or "has no value")
    low, high = difference.low, difference.high
    if low is None or high is None:
        return check(passed=False, detail=f"has no interval ({difference.units})")
    quantity, unit = ("cross-entropy ", " nats") if is_perplexity else ("", "")
    direction = "higher" if difference.value > 0 else "lower"
    ends = sorted((abs(low), abs(high)))
    interval = f"{ends[0]:.3f} to {ends[1]:.3f}" if low * high > 0 else "interval includes zero"
    return check(
        passed=high < 0 if is_perplexity else low > 0,
        detail=f"{_text(trained, facts.decimals)} against {_text(other, facts.decimals)}: "
        f"{quantity}{direction} by {abs(difference.value):.3f}{unit} "
        f"({interval}; {difference.units})",
        difference=difference.value,
        low=low,
        high=high,
    )


def _text(number: Number | None, decimals: int) -> str:
    return "no value" if number is None or number.value is None else f"{number.value:.{decimals}f}"
