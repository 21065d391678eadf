"""The results of the evaluations as rows of a model card."""

from collections.abc import Iterator, Mapping
from typing import Final

from esm1b.evaluation.results import Evaluation
from esm1b.report.catalogue import FACTS, MODEL_NAMES, SUBSET_NAMES, number_text
from esm1b.report.positive_control import has_control
from esm1b.weights.model_card import CardResult

_SYNTHETIC: Final = ("synthetic-families", "synthetic families")


def card_results(evaluations: Mapping[str, Evaluation]) -> Iterator[CardResult]:
    """Yield the results of a model's `evaluations` by kind, each number beside its baselines."""
    synthetic = has_control(evaluations)
    for kind, evaluation in evaluations.items():
        facts = FACTS[kind]
        dataset, dataset_name = _SYNTHETIC if synthetic else facts.dataset
        for name, (metric, metric_name) in facts.card.items():
            for subset in evaluation.subsets(name):
                trained = evaluation.metric(name, "trained", subset)
                if trained is None or subset == "not_fitted":  # pools the others
                    continue
                yield CardResult(
                    task=facts.task,
                    dataset=dataset,
                    dataset_name=dataset_name,
                    split=SUBSET_NAMES[subset],
                    metric=metric,
                    metric_name=metric_name,
                    value=trained.value,
                    low=trained.low,
                    high=trained.high,
                    units=trained.units,
                    decimals=facts.decimals,
                    baselines=", ".join(_baselines(name, evaluation, subset, facts.decimals)),
                    failed=trained.failed,
                    synthetic=synthetic,
                )


def _baselines(name: str, evaluation: Evaluation, subset: str, decimals: int) -> Iterator[str]:
    for model in evaluation.models(name):
        number = evaluation.metric(name, model, subset)
        if model != "trained" and number is not None:
            text = "failed" if number.value is None else number_text(number.value, decimals)
            yield f"{MODEL_NAMES[model]} {text}"
