"""The tables of the page: models in rows, a number with its 95 % interval in each cell."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from esm1b.evaluation.contacts.precision import FRACTIONS, RANGES
from esm1b.evaluation.measured import MODELS, Evaluation, Number
from esm1b.evaluation.published import CONTACT_RANGES, Published

_SUBSETS: Final = {
    "test": "test",
    "unseen": "never seen",
    "not_fitted": "test and never seen",
    "validation": "validation",
}
_RANGES: Final = {
    "short": "short, 6 to 11",
    "medium": "medium, 12 to 23",
    "long": "long, from 24",
    "all": "all, from 6",
}
_TOPS: Final = {"L": "L", "L2": "L/2", "L5": "L/5"}
_RECALLS: Final = {"recall_H": "helix", "recall_E": "strand", "recall_C": "coil"}


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


def number_text(value: float, decimals: int = 3, *, signed: bool = False) -> str:
    """Return a number with a true minus sign."""
    return f"{value:{'+' if signed else ''}.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def subset_name(subset: str) -> str:
    """Return what a reader calls a subset."""
    return _SUBSETS.get(subset, subset)


def perplexity_table(evaluation: Evaluation) -> Table:
    """Return perplexities of every model, and its cross-entropy beside the trained model's."""
    columns = {
        "perplexity_mask_positions_20": "<mask>, of 20",
        "perplexity_mask_positions": "<mask>, of 33",
        "perplexity_training_masks_20": "as trained, of 20",
        "perplexity_training_masks": "as trained, of 33",
    }
    rows = []
    for model in evaluation.models("perplexity_mask_positions_20"):
        difference = evaluation.comparison("cross_entropy_mask_positions_20", "validation", model)
        rows.append(
            Row(
                label=MODELS[model],
                cells=[
                    *(_cell(evaluation.metric(name, model, "validation"), 2) for name in columns),
                    _cell(difference, 3, signed=True),
                ],
                strong=model == "trained",
            )
        )
    return Table(corner="model", head=[*columns.values(), "trained less this, nats"], rows=rows)


def contact_table(evaluation: Evaluation) -> Table:
    """Return the precision at as many pairs as contacts of every model, by subset."""
    return _model_table(evaluation, "precision_at_contacts")


def structure_table(evaluation: Evaluation) -> Table:
    """Return the accuracy of every model by subset."""
    return _model_table(evaluation, "three_state_accuracy")


def recall_table(evaluation: Evaluation) -> Table:
    """Return the recall of each state by every model, on the proteins that test the probe."""
    subset = _main_subset(evaluation, "three_state_accuracy")
    rows = [
        Row(
            label=MODELS[model],
            cells=[_cell(evaluation.metric(name, model, subset), 3) for name in _RECALLS],
            strong=model == "trained",
        )
        for model in evaluation.models("recall_H")
    ]
    return Table(corner=f"recall, {subset_name(subset)}", head=[*_RECALLS.values()], rows=rows)


def range_table(evaluation: Evaluation, *, published: bool) -> Table:
    """Return the trained model's precision by range on test proteins.

    Args:
        evaluation: of contacts.
        published: whether to put the numbers of ESM-1b beside.
    """
    beside = {entry.metric: entry.value for entry in CONTACT_RANGES} if published else {}
    rows = []
    for name in RANGES:
        keys = [f"precision_at_{top}_{name}" for top in FRACTIONS]
        cells = [_cell(evaluation.metric(key, "trained", "test"), 3) for key in keys]
        if published:
            cells += [
                Cell(text=number_text(beside[key]) if key in beside else "\N{EN DASH}")
                for key in keys
            ]
        rows.append(Row(label=_RANGES[name], cells=cells))
    head = [_TOPS[top] for top in FRACTIONS]
    return Table(
        corner="separation",
        head=[*head, *(f"ESM-1b {top}" for top in head)] if published else head,
        rows=rows,
        notes=[f"ESM-1b: {_source(CONTACT_RANGES[0])}"] if published else [],
    )


def published_table(
    entries: Sequence[Published], corner: str, ours: Sequence[tuple[str, Number | None]] = ()
) -> Table:
    """Return published numbers, a row per model and a column per quantity.

    Args:
        entries: what was published.
        corner: head of the first column.
        ours: the same quantities of the trained model, by the names in `entries`; none leaves its
            row out.
    """
    quantities = list(dict.fromkeys(entry.metric for entry in entries))
    decimals = 2 if entries[0].unit == "perplexity" else 3
    values = {(entry.model, entry.metric): entry for entry in entries}
    rows = []
    if ours:
        found = dict(ours)
        cells = [_cell(found.get(quantity), decimals) for quantity in quantities]
        rows.append(Row(label="this model", cells=cells, strong=True))
    for model in dict.fromkeys(entry.model for entry in entries):
        row = [values.get((model, quantity)) for quantity in quantities]
        cells = [
            Cell(text="\N{EN DASH}" if entry is None else number_text(entry.value, decimals))
            for entry in row
        ]
        rows.append(Row(label=model, cells=cells))
    sources = list(dict.fromkeys(_source(entry) for entry in entries))
    return Table(
        corner=corner,
        head=[_quantity(quantity) for quantity in quantities],
        rows=rows,
        notes=sources,
    )


def _model_table(evaluation: Evaluation, name: str) -> Table:
    """Return `name` by model and subset, and the trained model's lead on the main one."""
    subsets = evaluation.subsets(name)
    main = _main_subset(evaluation, name)
    rows, notes = [], []
    for model in evaluation.models(name):
        numbers = [evaluation.metric(name, model, subset) for subset in subsets]
        lead = _cell(evaluation.comparison(name, main, model), 3, signed=True)
        rows.append(
            Row(
                label=MODELS[model],
                cells=[*(_cell(number, 3) for number in numbers), lead],
                strong=model == "trained",
            )
        )
        reasons = {number.failed for number in numbers if number and number.failed}
        notes += [f"{MODELS[model]}: {reason}" for reason in sorted(reasons)]
    head = []
    for subset in subsets:
        number = evaluation.metric(name, "trained", subset)
        head.append(f"{subset_name(subset)}\n{number.units}" if number else subset_name(subset))
    return Table(
        corner="model", head=[*head, f"trained ahead\n{subset_name(main)}"], rows=rows, notes=notes
    )


def _main_subset(evaluation: Evaluation, name: str) -> str:
    subsets = evaluation.subsets(name)
    return "test" if "test" in subsets else subsets[0]


def _cell(number: Number | None, decimals: int, *, signed: bool = False) -> Cell:
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
    second_hand = ", at second hand" if entry.second_hand else ""
    return f"{entry.source}{second_hand}: {entry.protocol}."


def _quantity(name: str) -> str:
    """Return the head of a column of published numbers."""
    if name.startswith("precision_at_"):
        _, _, top, scope = name.split("_")
        return f"P@{_TOPS[top]}, {scope} range"
    return name.replace("_", " ")
