"""Words and facts about each evaluation, for the page, the terminal and model cards.

A new evaluation needs a row in `FACTS` and names for its models; figure, table and section of the
page have defaults.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from esm1b.evaluation.results import Evaluation

MODEL_NAMES: Final[Mapping[str, str]] = {
    "trained": "trained model",
    "untrained": "untrained networks",
    "jacobian": "categorical Jacobian",
    "residue_frequencies": "residue frequencies",
    "site_independent": "site-independent bound",
    "exact_optimum": "exact optimum",
    "mean_map": "mean map",
    "separation_prior": "separation prior",
    "random_pairs": "random pairs",
    "one_hot_window": "one-hot window",
    "majority_class": "majority class",
    "blosum62": "BLOSUM62",
    "position_mean": "position mean",
}
SUBSET_NAMES: Final[Mapping[str, str]] = {
    "test": "test",
    "unseen": "never seen",
    "not_fitted": "test and never seen",
    "validation": "validation",
    "fasta": "FASTA",
    "assays": "all assays",
}
RANGES: Final[Mapping[str, str]] = {
    "short": "short, 6 to 11",
    "medium": "medium, 12 to 23",
    "long": "long, from 24",
    "all": "all, from 6",
}
TOPS: Final[Mapping[str, str]] = {"L": "L", "L2": "L/2", "L5": "L/5"}
STATE_NAMES: Final[Mapping[str, str]] = {"H": "helix", "E": "strand", "C": "coil"}
RECALLS: Final = {f"recall_{state}": name for state, name in STATE_NAMES.items()}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Words and facts about an evaluation.

    Attributes:
        title: heading of its section.
        name: main metric in `metrics.json`.
        compared: metric of the comparisons.
        decimals: decimals of the main metric.
        metrics: metrics of the table of all models and their heads; without any, or with several
            subsets, the table has the main metric by subset.
        label: label of the main metric in the figure.
        headline: title of its card at the top of the page.
        beside: baselines on that card; `unseen` is the trained model on families never seen.
        heading: heading of its table in the terminal; with `{units}` it has no heads of columns.
        plural: word for several published values.
        published: published metrics and the heads of their columns.
        task: Hugging Face's name of the task.
        dataset: identifier and name of real data on the model card.
        card: metrics on the model card, with Hugging Face's name of each and ours.
    """

    title: str
    name: str
    compared: str
    decimals: int = 3
    metrics: Mapping[str, str] = field(default_factory=dict)
    label: str
    headline: str
    beside: Sequence[str]
    heading: str
    plural: str
    published: Mapping[str, str]
    task: str
    dataset: tuple[str, str]
    card: Mapping[str, tuple[str, str]]

    def main_subset(self, evaluation: Evaluation) -> str:
        """Return the subset that leads: test, or else the first."""
        subsets = evaluation.subsets(self.name)
        return "test" if "test" in subsets else subsets[0]

    def columns(self, evaluation: Evaluation) -> list[tuple[str, str, str]]:
        """Return head, metric and subset of each column of the table of all models."""
        main = self.main_subset(evaluation)
        if self.metrics and len(evaluation.subsets(self.name)) == 1:
            measured = {metric for metric, _, _ in evaluation.metrics}
            return [(head, name, main) for name, head in self.metrics.items() if name in measured]
        columns = []
        for subset in evaluation.subsets(self.name):
            head = f"{SUBSET_NAMES[subset]}\n{evaluation.units(self.name, subset)}"
            columns.append((head, self.name, subset))
        return columns


FACTS: Final[Mapping[str, Facts]] = {
    "perplexity": Facts(
        title="Perplexity",
        name="perplexity_mask_positions_20",
        compared="cross_entropy_mask_positions_20",
        decimals=2,
        metrics={
            "perplexity_mask_positions_20": "<mask>, of 20",
            "perplexity_mask_positions": "<mask>, of 33",
            "perplexity_training_masks_20": "as trained, of 20",
            "perplexity_training_masks": "as trained, of 33",
        },
        label="perplexity at <mask> positions, over the 20 amino acids; lower is better",
        headline="Masked perplexity",
        beside=("residue_frequencies", "site_independent", "exact_optimum"),
        heading="perplexity at <mask> positions of {units} held out, over 20 amino acids",
        plural="perplexities",
        published={"perplexity_training_masks": "perplexity"},
        task="fill-mask",
        dataset=("held-out-sequences", "held-out sequences"),
        card={
            "perplexity_mask_positions_20": (
                "perplexity",
                "Perplexity at <mask>, of 20 amino acids (lower is better)",
            ),
        },
    ),
    "contacts": Facts(
        title="Contacts",
        name="precision_at_contacts",
        compared="precision_at_contacts",
        label="Precision of as many top pairs as there are contacts",
        headline="Contact precision",
        beside=("unseen", "untrained", "separation_prior"),
        heading="contacts: precision of as many top pairs as contacts",
        plural="precisions",
        published={
            "precision_at_L_long": "P@L, long range",
            "precision_at_L5_long": "P@L/5, long range",
        },
        task="other",
        dataset=("structures", "structures"),
        card={
            "precision_at_contacts": (
                "precision",
                "Contacts: precision of as many top pairs as contacts",
            ),
            "precision_at_L_long": (
                "precision",
                "Contacts: precision of the top L, long range (24 or more apart)",
            ),
        },
    ),
    "secondary_structure": Facts(
        title="Secondary structure",
        name="three_state_accuracy",
        compared="three_state_accuracy",
        label="Accuracy",
        headline="Structure accuracy",
        beside=("one_hot_window", "untrained", "majority_class"),
        heading="secondary structure: three-state accuracy",
        plural="accuracies",
        published={
            "eight_state_accuracy": "eight state accuracy",
            "three_state_accuracy_per_residue": "three state accuracy per residue",
        },
        task="token-classification",
        dataset=("secondary-structure", "secondary structures"),
        card={
            "three_state_accuracy": (
                "accuracy",
                "Secondary structure: three-state accuracy of a linear probe",
            ),
        },
    ),
    "variants": Facts(
        title="Effects of mutations",
        name="spearman",
        compared="spearman",
        metrics={
            "spearman": "Spearman",
            "spearman_by_category": "Spearman,\nby category",
            "auroc": "AUROC",
            "mcc": "MCC",
            "ndcg": "NDCG",
            "top_recall": "recall of\nthe top 10 %",
        },
        label="Spearman correlation of scores and measured effects",
        headline="Effects of mutations",
        beside=("unseen", "site_independent", "untrained", "blosum62"),
        heading="effects of mutations: Spearman correlation of scores and measured effects",
        plural="correlations",
        published={"spearman_by_category": "Spearman, by category"},
        task="other",
        dataset=("deep-mutational-scans", "deep mutational scans"),
        card={
            "spearman": ("spearmanr", "Effects of mutations: Spearman correlation, mean of assays"),
            "spearman_by_category": (
                "spearmanr",
                "Effects of mutations: Spearman correlation, ProteinGym's mean by category",
            ),
        },
    ),
}

PUBLISHED: Final[Mapping[str, Sequence[Mapping[str, Any]]]] = json.loads(
    (Path(__file__).parent / "published.json").read_text(encoding="utf-8")
)
"""Published numbers of ESM-1b and its neighbours by kind of evaluation; `contact_ranges` are
ESM-1b's precisions by range of separation.

None was measured here. Each protocol differs from ours in data or regression, and each entry says
how; a number that was not read in its primary source is marked as second-hand. Numbers are by model
and our name of the nearest metric.
"""


def depths(evaluation: Evaluation) -> dict[str, str]:
    """Return the correlations by number of mutations, and of epistasis, with their heads."""
    main = FACTS["variants"].name
    names = sorted({metric for metric, _, _ in evaluation.metrics})
    found = {name: name.removeprefix(f"{main}_").replace("_", " ") for name in names}
    return {name: head for name, head in found.items() if "mutation" in head or "epistasis" in head}


def model_name(model: str) -> str:
    """Return the name of a model for readers; a column of predictions has its own."""
    return MODEL_NAMES.get(model, model)


def number_text(value: float, decimals: int = 3, *, signed: bool = False) -> str:
    """Return a number with a true minus sign."""
    return f"{value:{'+' if signed else ''}.{decimals}f}".replace("-", "\N{MINUS SIGN}")
