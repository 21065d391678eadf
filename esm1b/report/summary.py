"""The results in a few lines for the terminal."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from esm1b.evaluation.measured import MODELS, Evaluation, Number
from esm1b.evaluation.positive_control import Check, passed

_COLUMNS: Final = 100
_LABEL: Final = 28
_PERPLEXITY: Final = "perplexity_mask_positions_20"
_TABLES: Final = {
    "contacts": ("contacts: precision of as many top pairs as contacts", "precision_at_contacts"),
    "secondary_structure": ("secondary structure: three-state accuracy", "three_state_accuracy"),
}
_SUBSETS: Final = {"test": "test", "unseen": "never seen", "not_fitted": "both"}


def summarise(title: str, evaluations: Mapping[str, Evaluation], checks: Sequence[Check]) -> str:
    """Return at most 30 lines of at most 100 columns; the verdict, where there is one, comes last.

    Args:
        title: the first line.
        evaluations: by kind.
        checks: of the positive control; empty where the data have no known truth.
    """
    blocks = [[title]]
    if "perplexity" in evaluations:
        blocks.append(list(_perplexity(evaluations["perplexity"])))
    for kind, (heading, name) in _TABLES.items():
        if kind in evaluations:
            blocks.append(list(_by_subset(heading, name, evaluations[kind])))
    if checks:
        blocks.append([verdict(checks)])
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks) + "\n"


def verdict(checks: Sequence[Check]) -> str:
    """Return `positive control: PASSED`, or `FAILED` and which checks."""
    if passed(checks):
        return "positive control: PASSED"
    # With spaces that do not break, a name stays on one line.
    names = [check.name.replace(" ", "\N{NO-BREAK SPACE}") for check in checks if not check.passed]
    text = f"positive control: FAILED ({', '.join(names)})"
    lines = textwrap.fill(text, width=_COLUMNS, subsequent_indent="  ", break_on_hyphens=False)
    return lines.replace("\N{NO-BREAK SPACE}", " ")


def _perplexity(evaluation: Evaluation) -> Iterator[str]:
    trained = evaluation.metric(_PERPLEXITY, "trained", "validation")
    held_out = trained.units if trained else "nothing"
    yield f"perplexity at <mask> positions of {held_out} held out, over 20 amino acids"
    for model in evaluation.models(_PERPLEXITY):
        number = evaluation.metric(_PERPLEXITY, model, "validation")
        yield f"  {MODELS[model]:<{_LABEL}}{_number(number, 2)}"
    gap = evaluation.metric("gap_closed", "trained", "validation")
    if gap is not None and gap.value is not None:
        yield f"  {'share of the gap closed':<{_LABEL}}{_number(gap, 2)}"


def _by_subset(heading: str, name: str, evaluation: Evaluation) -> Iterator[str]:
    subsets = evaluation.subsets(name)
    yield heading
    columns: list[str] = []
    for subset in subsets:
        number = evaluation.metric(name, "trained", subset)
        what = _SUBSETS.get(subset, subset)
        columns.append(f"{what} ({number.units})" if number else what)
    yield f"  {'':<{_LABEL}}" + "".join(f"{column:<24}" for column in columns)
    for model in evaluation.models(name):
        numbers = [_number(evaluation.metric(name, model, subset), 3) for subset in subsets]
        yield f"  {MODELS[model]:<{_LABEL}}" + "".join(f"{number:<24}" for number in numbers)


def _number(number: Number | None, decimals: int) -> str:
    if number is None or number.value is None:
        return "failed"
    text = f"{number.value:{decimals + 3}.{decimals}f}"
    if number.low is None or number.high is None:
        return text
    return f"{text}  {number.low:.{decimals}f} to {number.high:.{decimals}f}"
