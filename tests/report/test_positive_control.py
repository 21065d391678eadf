from typing import Any

import pytest

from esm1b.evaluation.results import Evaluation, parse_evaluation
from esm1b.report.positive_control import has_control, passed, positive_control
from tests.report import examples


def evaluations() -> dict[str, dict[str, Any]]:
    return {
        "perplexity": examples.perplexity(),
        "contacts": examples.contacts(),
        "secondary_structure": examples.secondary_structure(),
        "variants": examples.variants(),
    }


def parsed(contents: dict[str, dict[str, Any]]) -> dict[str, Evaluation]:
    return {kind: parse_evaluation(content) for kind, content in contents.items()}


def failures(contents: dict[str, dict[str, Any]]) -> list[str]:
    return [check.name for check in positive_control(parsed(contents)) if not check.passed]


def set_comparison(
    content: dict[str, Any], name: str, against: str, interval: tuple[float, float] | None
) -> None:
    """Replace every comparison with `against` on any subset."""
    content["comparisons"] = [
        examples.comparison(name, old["subset"], against, interval, old["against_subset"])
        if (old["name"], old["against"]) == (name, against)
        else old
        for old in content["comparisons"]
    ]


def test_all_checks_pass_when_every_interval_is_on_the_right_side() -> None:
    checks = positive_control(parsed(evaluations()))
    assert [check.name for check in checks] == [
        "perplexity below the site-independent bound",
        "contacts above families never seen",
        "contacts above separation prior",
        "contacts above mean map",
        "contacts above untrained networks",
        "structure above one-hot window",
        "structure above untrained networks",
        "structure above majority class",
        "effects of mutations above the score without couplings",
        "effects of mutations above families never seen",
        "effects of mutations above untrained networks",
    ]
    assert passed(checks)


def test_detail_tells_both_values_and_their_difference() -> None:
    checks = positive_control(parsed(evaluations()))
    assert checks[0].detail == (
        "9.50 against 12.00: cross-entropy lower by 0.250 nats (0.200 to 0.300; 8 families)"
    )
    assert checks[2].detail == ("0.500 against 0.060: higher by 0.400 (0.300 to 0.500; 8 families)")
    assert (checks[2].difference, checks[2].low, checks[2].high) == (0.4, 0.3, 0.5)


@pytest.mark.parametrize(
    ("kind", "metric", "against", "interval", "failed"),
    [
        (
            "perplexity",
            "cross_entropy_mask_positions_20",
            "site_independent",
            (-0.2, 0.01),
            "perplexity below the site-independent bound",
        ),
        (
            "perplexity",
            "cross_entropy_mask_positions_20",
            "site_independent",
            (0.2, 0.3),
            "perplexity below the site-independent bound",
        ),
        (
            "contacts",
            "precision_at_contacts",
            "trained",
            (-0.01, 0.3),
            "contacts above families never seen",
        ),
        (
            "contacts",
            "precision_at_contacts",
            "mean_map",
            (-0.3, -0.2),
            "contacts above mean map",
        ),
        (
            "contacts",
            "precision_at_contacts",
            "separation_prior",
            None,
            "contacts above separation prior",
        ),
        (
            "secondary_structure",
            "three_state_accuracy",
            "one_hot_window",
            (0.0, 0.1),
            "structure above one-hot window",
        ),
        (
            "variants",
            "spearman",
            "site_independent",
            (-0.01, 0.1),
            "effects of mutations above the score without couplings",
        ),
    ],
)
def test_one_wrong_comparison_fails_one_check(
    kind: str, metric: str, against: str, interval: tuple[float, float] | None, failed: str
) -> None:
    contents = evaluations()
    set_comparison(contents[kind], metric, against, interval)
    assert failures(contents) == [failed]


@pytest.mark.parametrize("kind", ["contacts", "secondary_structure", "variants"])
def test_an_evaluation_that_was_not_run_fails_its_checks(kind: str) -> None:
    contents = evaluations()
    del contents[kind]
    checks = [check for check in positive_control(parsed(contents)) if check.evaluation == kind]
    assert len(checks) in (3, 4)
    assert all(check.detail == "was not evaluated" for check in checks if not check.passed)
    assert not any(check.passed for check in checks)


def test_a_missing_comparison_never_passes() -> None:
    contents = evaluations()
    for content in contents.values():
        content["comparisons"] = []
    checks = positive_control(parsed(contents))
    assert not any(check.passed for check in checks)
    assert {check.detail for check in checks} == {"was not compared"}


def test_a_comparison_without_interval_fails() -> None:
    contents = evaluations()
    for entry in contents["contacts"]["comparisons"]:
        entry["low"] = entry["high"] = None
    assert len(failures(contents)) == 4


def without_untrained_fit(contents: dict[str, dict[str, Any]], kept: list[int]) -> None:
    content = contents["contacts"]
    content["untrained_fits"] = [{"coefficients_kept": count} for count in kept]
    set_comparison(content, "precision_at_contacts", "untrained", None)


def test_untrained_networks_that_keep_no_coefficient_predict_nothing_and_are_beaten() -> None:
    contents = evaluations()
    without_untrained_fit(contents, [0, 0, 0])
    checks = positive_control(parsed(contents))
    assert passed(checks)
    assert checks[4].detail == (
        "0.500; none of the 3 untrained networks kept a coefficient, so there is no contact that "
        "they predict"
    )
    assert checks[4].difference is None


@pytest.mark.parametrize("kept", [[0, 0, 2], []])
def test_an_untrained_comparison_that_failed_otherwise_fails(kept: list[int]) -> None:
    contents = evaluations()
    without_untrained_fit(contents, kept)
    assert failures(contents) == ["contacts above untrained networks"]


def test_a_trained_network_that_keeps_no_coefficient_fails_every_contact_check() -> None:
    contents = evaluations()
    content = contents["contacts"]
    for against in ("untrained", "mean_map", "separation_prior", "trained"):
        set_comparison(content, "precision_at_contacts", against, None)
    content["metrics"] = [
        examples.metric("precision_at_contacts", "trained", subset, None)
        for subset in ("test", "unseen")
    ]
    content["untrained_fits"] = [{"coefficients_kept": 0}]
    assert len(failures(contents)) == 4


def test_there_is_a_control_only_where_the_optimum_is_known() -> None:
    assert has_control(parsed(evaluations()))
    assert not has_control(parsed({"perplexity": examples.perplexity(synthetic=False)}))
    assert not has_control({})
    assert not passed([])


def test_untrained_networks_that_nobody_asked_for_are_not_missed() -> None:
    contents = evaluations()
    for kind in ("contacts", "secondary_structure", "variants"):
        content = contents[kind]
        content["protocol"]["untrained_networks"] = 0
        content["comparisons"] = [
            each for each in content["comparisons"] if each["against"] != "untrained"
        ]
    checks = positive_control(parsed(contents))
    assert passed(checks)
    assert [check.name for check in checks if "untrained" in check.name] == []
    del contents["contacts"]["protocol"]["untrained_networks"]
    assert failures(contents) == ["contacts above untrained networks"]


def with_jacobian(low: float) -> dict[str, dict[str, Any]]:
    contents = evaluations()
    name = "precision_at_contacts"
    contents["contacts"]["metrics"] += [
        examples.metric(name, "jacobian", "test", 0.6),
        examples.metric(name, "jacobian", "unseen", 0.05),
    ]
    contents["contacts"]["comparisons"] += [
        examples.comparison(name, "test", "jacobian", (0.4, 0.7), "unseen", model="jacobian"),
        examples.comparison(name, "test", "separation_prior", (low, 0.6), model="jacobian"),
    ]
    return contents


def test_the_jacobian_is_checked_where_it_was_measured() -> None:
    checks = positive_control(parsed(with_jacobian(0.5)))[-2:]
    assert passed(checks)
    assert [(check.name, check.detail) for check in checks] == [
        (
            "Jacobian above families never seen",
            "0.600 against 0.050: higher by 0.550 (0.400 to 0.700; 8 families)",
        ),
        (
            "Jacobian above separation prior",
            "0.600 against 0.060: higher by 0.550 (0.500 to 0.600; 8 families)",
        ),
    ]
    assert failures(with_jacobian(-0.1))[-1:] == ["Jacobian above separation prior"]
