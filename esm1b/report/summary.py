"""The results in brief, a few lines for the terminal."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from esm1b.evaluation.results import Evaluation, Number
from esm1b.report.catalogue import FACTS, MODEL_NAMES, SUBSET_NAMES
from esm1b.report.positive_control import Check, passed

_COLUMNS: Final = 100
_LABEL: Final = 28
_SHORT_NAMES: Final = {**SUBSET_NAMES, "not_fitted": "both"}


def summarise(title: str, evaluations: Mapping[str, Evaluation], checks: Sequence[Check]) -> str:
    """Return at most 30 lines of at most 100 columns, the title first and a verdict last.

    There is no verdict without `checks`, where the data have no known truth.
    """
    blocks = [[title], *(list(_lines(*each)) for each in evaluations.items())]
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


def _lines(kind: str, evaluation: Evaluation) -> Iterator[str]:
    """Yield the main metric, a row per model and a column per subset."""
    facts = FACTS[kind]
    subsets = evaluation.subsets(facts.name)
    trained = {subset: evaluation.metric(facts.name, "trained", subset) for subset in subsets}
    units = {subset: number.units for subset, number in trained.items() if number}
    yield facts.heading.format(units=next(iter(units.values()), "nothing"))
    if "{units}" not in facts.heading:
        yield _row(
            "",
            [
                _SHORT_NAMES[each] + (f" ({units[each]})" if each in units else "")
                for each in subsets
            ],
        )
    for model in evaluation.models(facts.name):
        numbers = [evaluation.metric(facts.name, model, subset) for subset in subsets]
        yield _row(MODEL_NAMES[model], [_number(number, facts.decimals) for number in numbers])
    gap = evaluation.metric("gap_closed", "trained", "validation")
    if gap is not None and gap.value is not None:
        yield _row("share of the gap closed", [_number(gap, 2)])


def _row(label: str, cells: Sequence[str]) -> str:
    return f"  {label:<{_LABEL}}" + "".join(f"{cell:<24}" for cell in cells)


def _number(number: Number | None, decimals: int) -> str:
    if number is None or number.value is None:
        return "failed"
    text = f"{number.value:{decimals + 3}.{decimals}f}"
    if number.low is None or number.high is None:
        return text
    return f"{text}  {number.low:.{decimals}f} to {number.high:.{decimals}f}"
