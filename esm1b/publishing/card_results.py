"""Results of the evaluations as rows of a model card."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from esm1b.evaluation.measured import MODELS, Evaluation
from esm1b.evaluation.positive_control import has_control
from esm1b.report.tables import number_text, subset_name
from esm1b.weights.model_card import CardMetric, CardResult

_SUBSETS: Final = ("validation", "test", "unseen")
_PRECISION: Final = CardMetric(
    task="other",
    dataset="structures",
    dataset_name="structures",
    metric="precision",
    metric_name="Contacts: precision of as many top pairs as contacts",
)
# The metrics that the card shows, by kind of evaluation and by their names there.
_METRICS: Final[Mapping[str, Mapping[str, CardMetric]]] = {
    "perplexity": {
        "perplexity_mask_positions_20": CardMetric(
            task="fill-mask",
            dataset="held-out-sequences",
            dataset_name="held-out sequences",
            metric="perplexity",
            metric_name="Perplexity at <mask>, of 20 amino acids (lower is better)",
            decimals=2,
        )
    },
    "contacts": {
        "precision_at_contacts": _PRECISION,
        "precision_at_L_long": replace(
            _PRECISION,
            metric_name="Contacts: precision of the top L, long range (24 or more apart)",
        ),
    },
    "secondary_structure": {
        "three_state_accuracy": CardMetric(
            task="token-classification",
            dataset="secondary-structure",
            dataset_name="secondary structures",
            metric="accuracy",
            metric_name="Secondary structure: three-state accuracy of a linear probe",
        )
    },
}


def card_results(evaluations: Mapping[str, Evaluation]) -> Iterator[CardResult]:
    """Yield the results of a model's `evaluations` by kind, each number beside its baselines."""
    synthetic = has_control(evaluations)
    for kind, evaluation in evaluations.items():
        for name, metric in _METRICS[kind].items():
            if synthetic:
                metric = replace(
                    metric, dataset="synthetic-families", dataset_name="synthetic families"
                )
            for subset in _SUBSETS:
                trained = evaluation.metric(name, "trained", subset)
                if trained is None:
                    continue
                yield CardResult(
                    metric=metric,
                    split=subset_name(subset),
                    value=trained.value,
                    low=trained.low,
                    high=trained.high,
                    units=trained.units,
                    baselines=", ".join(_baselines(evaluation, name, subset, metric.decimals)),
                    failed=trained.failed,
                    synthetic=synthetic,
                )


def _baselines(evaluation: Evaluation, name: str, subset: str, decimals: int) -> Iterator[str]:
    for model in evaluation.models(name):
        number = evaluation.metric(name, model, subset)
        if model != "trained" and number is not None:
            value = number.value
            text = "failed" if value is None else number_text(value, decimals)
            yield f"{MODELS[model]} {text}"
