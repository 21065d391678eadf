"""The tables of the page: models in rows, a number with its 95 % interval in each cell."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from esm1b.evaluation.contacts.precision import FRACTIONS, RANGES
from esm1b.evaluation.results import Evaluation, Number
from esm1b.report.catalogue import FACTS, MODEL_NAMES, STATE_NAMES, SUBSET_NAMES
from esm1b.report.published import PUBLISHED, Published

_RANGES: Final = {
    "short": "short, 6 to 11",
    "medium": "medium, 12 to 23",
    "long": "long, from 24",
    "all": "all, from 6",
}
_TOPS: Final = {"L": "L", "L2": "L/2", "L5": "L/5"}
_PERPLEXITIES: Final = {
    "perplexity_mask_positions_20": "<mask>, of 20",
    "perplexity_mask_positions": "<mask>, of 33",
    "perplexity_training_masks_20": "as trained, of 20",
    "perplexity_training_masks": "as trained, of 33",
}
_NONE: Final = "\N{EN DASH}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number as text, and its interval in small."""

    text: str
    interval: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row; `strong` for the trained model."""

    label: str
    cells: Sequence[Cell]
    strong: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; `head` names the columns after the first, in one or two lines."""

    corner: str
    head: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str] = field(default_factory=list)


def text_row(label: str, *cells: str, strong: bool = False) -> Row:
    """Return a row of plain texts."""
    return Row(label=label, cells=[Cell(text=cell) for cell in cells], strong=strong)


def number_text(value: float, decimals: int = 3, *, signed: bool = False) -> str:
    """Return a number with a true minus sign."""
    return f"{value:{'+' if signed else ''}.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def perplexity_table(evaluation: Evaluation) -> Table:
    """Return the perplexities of every model, and the trained model's lead in cross-entropy."""
    facts = FACTS["perplexity"]

    def cells(model: str) -> list[Cell]:
        numbers = [evaluation.metric(name, model, "validation") for name in _PERPLEXITIES]
        lead = _cell(evaluation.comparison(facts.compared, "validation", model), signed=True)
        return [*(_cell(number, facts.decimals) for number in numbers), lead]

    head = [*_PERPLEXITIES.values(), "trained minus this, nats"]
    return Table(corner="model", head=head, rows=_model_rows(evaluation, facts.name, cells))


def model_table(kind: str, evaluation: Evaluation) -> Table:
    """Return the main metric by model and subset, and the trained model's lead on the main one."""
    facts = FACTS[kind]
    subsets, main = evaluation.subsets(facts.name), facts.main_subset(evaluation)
    notes: list[str] = []

    def cells(model: str) -> list[Cell]:
        numbers = [evaluation.metric(facts.name, model, subset) for subset in subsets]
        reasons = {number.failed for number in numbers if number and number.failed}
        notes.extend(f"{MODEL_NAMES[model]}: {reason}" for reason in sorted(reasons))
        lead = _cell(evaluation.comparison(facts.compared, main, model), signed=True)
        return [*(_cell(number, facts.decimals) for number in numbers), lead]

    rows = _model_rows(evaluation, facts.name, cells)
    trained = [evaluation.metric(facts.name, "trained", subset) for subset in subsets]
    head = [
        SUBSET_NAMES[subset] + (f"\n{number.units}" if number else "")
        for subset, number in zip(subsets, trained, strict=True)
    ]
    head.append(f"trained ahead\n{SUBSET_NAMES[main]}")
    return Table(corner="model", head=head, rows=rows, notes=notes)


def recall_table(evaluation: Evaluation) -> Table:
    """Return the recall of each state by every model, on the proteins that test the probe."""
    subset = FACTS["secondary_structure"].main_subset(evaluation)
    rows = _model_rows(
        evaluation,
        "recall_H",
        lambda model: [
            _cell(evaluation.metric(f"recall_{state}", model, subset)) for state in STATE_NAMES
        ],
    )
    corner = f"recall, {SUBSET_NAMES[subset]}"
    return Table(corner=corner, head=[*STATE_NAMES.values()], rows=rows)


def range_table(evaluation: Evaluation, *, published: bool) -> Table:
    """Return the trained model's precision by range on test proteins, ESM-1b's if `published`."""
    ranges = PUBLISHED["contact_ranges"]
    theirs = {entry.metric: number_text(entry.value) for entry in ranges}
    rows = []
    for scope in RANGES:
        names = [f"precision_at_{top}_{scope}" for top in FRACTIONS]
        cells = [_cell(evaluation.metric(name, "trained", "test")) for name in names]
        if published:
            cells += [Cell(text=theirs.get(name, _NONE)) for name in names]
        rows.append(Row(label=_RANGES[scope], cells=cells))
    head = [_TOPS[top] for top in FRACTIONS]
    return Table(
        corner="separation",
        head=[*head, *(f"ESM-1b {top}" for top in head)] if published else head,
        rows=rows,
        notes=[f"ESM-1b: {_source(ranges[0])}"] if published else [],
    )


def published_table(kind: str, ours: Evaluation | None = None) -> Table:
    """Return published numbers by model and quantity, above them those of the trained model."""
    entries, facts = PUBLISHED[kind], FACTS[kind]
    quantities = list(dict.fromkeys(entry.metric for entry in entries))
    values = {
        (entry.model, entry.metric): number_text(entry.value, facts.decimals) for entry in entries
    }
    rows = [
        text_row(model, *(values.get((model, quantity), _NONE) for quantity in quantities))
        for model in dict.fromkeys(entry.model for entry in entries)
    ]
    if ours is not None:
        main = facts.main_subset(ours)
        numbers = [ours.metric(quantity, "trained", main) for quantity in quantities]
        cells = [_cell(number, facts.decimals) for number in numbers]
        rows.insert(0, Row(label="this model", cells=cells, strong=True))
    return Table(
        corner="model",
        head=[_quantity(quantity) for quantity in quantities],
        rows=rows,
        notes=list(dict.fromkeys(_source(entry) for entry in entries)),
    )


def _model_rows(
    evaluation: Evaluation, name: str, cells: Callable[[str], Sequence[Cell]]
) -> list[Row]:
    """Return a row for each model that has the metric `name`."""
    return [
        Row(label=MODEL_NAMES[model], cells=cells(model), strong=model == "trained")
        for model in evaluation.models(name)
    ]


def _cell(number: Number | None, decimals: int = 3, *, signed: bool = False) -> Cell:
    if number is None:
        return Cell(text="")
    if number.value is None:
        return Cell(text="failed")
    text = number_text(number.value, decimals, signed=signed)
    if number.low is None or number.high is None:
        return Cell(text=text)
    ends = [number_text(end, decimals, signed=signed) for end in (number.low, number.high)]
    return Cell(text=text, interval=f"{ends[0]} to {ends[1]}")


def _source(entry: Published) -> str:
    second_hand = ", second-hand" if entry.second_hand else ""
    return f"{entry.source}{second_hand}: {entry.protocol}."


def _quantity(name: str) -> str:
    """Return the head of a column of published numbers."""
    if name.startswith("precision_at_"):
        _, _, top, scope = name.split("_")
        return f"P@{_TOPS[top]}, {scope} range"
    return "perplexity" if name.startswith("perplexity") else name.replace("_", " ")
