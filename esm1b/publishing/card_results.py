"""Results of the evaluations as rows of a model card."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from esm1b.evaluation.measured import MODELS, Evaluation
from esm1b.evaluation.positive_control import has_control
from esm1b.report.tables import number_text, subset_name
from esm1b.weights.model_card import CardResult

_SYNTHETIC: Final = "synthetic-families"


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A metric that the card shows, on those of `subsets` that were measured.

    `task` and `metric` are Hugging Face's names, `dataset` an identifier and its name for readers,
    unless the data are synthetic.
    """

    name: str
    subsets: Sequence[str]
    task: str
    dataset: tuple[str, str]
    metric: str
    metric_name: str
    decimals: int = 3


_STRUCTURES: Final = ("structures", "structures")
_ROWS: Final[Mapping[str, Sequence[_Row]]] = {
    "perplexity": (
        _Row(
            name="perplexity_mask_positions_20",
            subsets=("validation",),
            task="fill-mask",
            dataset=("held-out-sequences", "held-out sequences"),
            metric="perplexity",
            metric_name="Perplexity at <mask>, of 20 amino acids (lower is better)",
            decimals=2,
        ),
    ),
    "contacts": (
        _Row(
            name="precision_at_contacts",
            subsets=("test", "unseen"),
            task="other",
            dataset=_STRUCTURES,
            metric="precision",
            metric_name="Contacts: precision of as many top pairs as contacts",
        ),
        _Row(
            name="precision_at_L_long",
            subsets=("test", "unseen"),
            task="other",
            dataset=_STRUCTURES,
            metric="precision",
            metric_name="Contacts: precision of the top L, long range (24 or more apart)",
        ),
    ),
    "secondary_structure": (
        _Row(
            name="three_state_accuracy",
            subsets=("test", "unseen"),
            task="token-classification",
            dataset=("secondary-structure", "secondary structures"),
            metric="accuracy",
            metric_name="Secondary structure: three-state accuracy of a linear probe",
        ),
    ),
}


def card_results(evaluations: Mapping[str, Evaluation]) -> list[CardResult]:
    """Return the results that a model card shows, each number beside its baselines.

    Args:
        evaluations: evaluations of one model by kind, from `read_evaluations`.
    """
    synthetic = has_control(evaluations)
    return [
        result
        for kind, evaluation in evaluations.items()
        for row in _ROWS[kind]
        for result in _results(row, evaluation, synthetic)
    ]


def _results(row: _Row, evaluation: Evaluation, synthetic: bool) -> Iterator[CardResult]:
    for subset in row.subsets:
        trained = evaluation.metric(row.name, "trained", subset)
        if trained is None:
            continue
        dataset, dataset_name = (_SYNTHETIC, "synthetic families") if synthetic else row.dataset
        yield CardResult(
            task=row.task,
            dataset=dataset,
            dataset_name=dataset_name,
            split=subset_name(subset),
            metric=row.metric,
            metric_name=row.metric_name,
            value=trained.value,
            low=trained.low,
            high=trained.high,
            units=trained.units,
            decimals=row.decimals,
            baselines=", ".join(_baselines(row, evaluation, subset)),
            failed=trained.failed,
            synthetic=synthetic,
        )


def _baselines(row: _Row, evaluation: Evaluation, subset: str) -> Iterator[str]:
    for model in evaluation.models(row.name):
        number = evaluation.metric(row.name, model, subset)
        if model != "trained" and number is not None:
            value = number.value
            text = "failed" if value is None else number_text(value, row.decimals)
            yield f"{MODELS[model]} {text}"
