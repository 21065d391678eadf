"""The verdict on the demonstration: does the pipeline recover what was put into its data?

Every check is a comparison with a 95 % interval that must be on the right side of zero. It claims
that the pipeline finds couplings it was given and fails where it should; nothing about real
proteins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from esm1b.evaluation.measured import MODELS, Evaluation, Number

_PERPLEXITY: Final = "perplexity_mask_positions_20"
_CROSS_ENTROPY: Final = "cross_entropy_mask_positions_20"
_PRECISION: Final = "precision_at_contacts"
_ACCURACY: Final = "three_state_accuracy"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison of the positive control.

    `difference` is trained less the other, with its interval; None where there is no number.
    """

    evaluation: str
    name: str
    passed: bool
    detail: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the entry of `results.json`."""
        return dict(vars(self))


def has_control(evaluations: Mapping[str, Evaluation]) -> bool:
    """Return whether the corpus is synthetic, so that there is a truth to recover."""
    perplexity = evaluations.get("perplexity")
    return perplexity is not None and "exact_optimum" in perplexity.models(_PERPLEXITY)


def passed(checks: Sequence[Check]) -> bool:
    """Return whether all of them passed; no check at all proves nothing."""
    return bool(checks) and all(check.passed for check in checks)


def positive_control(evaluations: Mapping[str, Evaluation]) -> list[Check]:
    """Return every check of the control; one without its comparison has failed.

    Args:
        evaluations: by kind, as `read_evaluations` returns them.
    """
    return [
        _perplexity_check(evaluations.get("perplexity")),
        _contact_check(evaluations.get("contacts"), "trained", "unseen"),
        *(
            _contact_check(evaluations.get("contacts"), against, "test")
            for against in ("separation_prior", "mean_map", "untrained")
        ),
        *(
            _structure_check(evaluations.get("secondary_structure"), against)
            for against in ("one_hot_window", "untrained", "majority_class")
        ),
    ]


def _perplexity_check(evaluation: Evaluation | None) -> Check:
    name = "perplexity below the site-independent bound"
    if evaluation is None:
        return _missing("perplexity", name)
    subset, against = "validation", "site_independent"
    difference = evaluation.comparison(_CROSS_ENTROPY, subset, against)
    values = [evaluation.metric(_PERPLEXITY, model, subset) for model in ("trained", against)]
    return _check("perplexity", name, difference, values, sign=-1)


def _contact_check(evaluation: Evaluation | None, against: str, against_subset: str) -> Check:
    other = "families never seen" if against == "trained" else MODELS[against]
    name = f"contacts above {other}"
    if evaluation is None:
        return _missing("contacts", name)
    trained = evaluation.metric(_PRECISION, "trained", "test")
    values = [trained, evaluation.metric(_PRECISION, against, against_subset)]
    difference = evaluation.comparison(_PRECISION, "test", against, against_subset)
    if against == "untrained" and _kept_nothing(evaluation) and _has_value(trained):
        count = len(evaluation.content["untrained_fits"])
        return Check(
            evaluation="contacts",
            name=name,
            passed=True,
            detail=f"{_text(trained)}; none of the {count} untrained networks kept a coefficient, "
            "so there is no contact that they predict",
        )
    return _check("contacts", name, difference, values)


def _structure_check(evaluation: Evaluation | None, against: str) -> Check:
    name = f"structure above {MODELS[against]}"
    if evaluation is None:
        return _missing("secondary_structure", name)
    # Families of the corpus that the probe was not fitted on. Those never seen stand beside them in
    # the table: a network that learns the profiles of its families knows nothing of theirs.
    subset = "test"
    difference = evaluation.comparison(_ACCURACY, subset, against)
    values = [evaluation.metric(_ACCURACY, model, subset) for model in ("trained", against)]
    return _check("secondary_structure", name, difference, values)


def _check(
    evaluation: str,
    name: str,
    difference: Number | None,
    values: Sequence[Number | None],
    *,
    sign: int = 1,
) -> Check:
    """Return whether the whole interval of `sign * difference` is above zero.

    With -1 the values are perplexities and the difference one of cross-entropies, in nats.
    """
    if difference is None:
        return _missing(evaluation, name, "was not compared")
    if difference.value is None:
        return _missing(evaluation, name, difference.failed or "has no value")
    low, high = difference.low, difference.high
    if low is None or high is None:
        return _missing(evaluation, name, f"has no interval ({difference.units})")
    direction = "higher" if difference.value > 0 else "lower"
    quantity, unit, decimals = ("cross-entropy ", " nats", 2) if sign < 0 else ("", "", 3)
    shown = " against ".join(_text(value, decimals) for value in values)
    ends = sorted((abs(low), abs(high)))
    interval = f"{ends[0]:.3f} to {ends[1]:.3f}" if low * high > 0 else "interval holds zero"
    return Check(
        evaluation=evaluation,
        name=name,
        passed=low > 0 if sign > 0 else high < 0,
        detail=f"{shown}: {quantity}{direction} "
        f"by {abs(difference.value):.3f}{unit} ({interval}; {difference.units})",
        difference=difference.value,
        low=low,
        high=high,
    )


def _missing(evaluation: str, name: str, reason: str = "was not evaluated") -> Check:
    return Check(evaluation=evaluation, name=name, passed=False, detail=reason)


def _kept_nothing(evaluation: Evaluation) -> bool:
    """Return whether every untrained network was fitted and none kept a coefficient."""
    fits = evaluation.content.get("untrained_fits", [])
    return bool(fits) and all(fit["coefficients_kept"] == 0 for fit in fits)


def _has_value(number: Number | None) -> bool:
    return number is not None and number.value is not None


def _text(number: Number | None, decimals: int = 3) -> str:
    if number is None or number.value is None:
        return "no value"
    return f"{number.value:.{decimals}f}"
