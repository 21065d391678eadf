"""Evaluations of a tiny run, made by hand: what is measured is invented, the form is not."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MODEL: Mapping[str, Any] = {
    "rare_residues": "replace",
    "contact_head": "unfitted",
    "run": "tiny",
    "updates": 20,
    "tokens_fingerprint": "f" * 64,
    "seed": 1,
    "model": {"layers": 2, "width": 16},
    "pretraining": {"updates": 20, "tokens_per_update": 1000},
}


def metric(
    name: str, model: str, subset: str, value: float | None, unit: str = "family", n: int = 8
) -> dict[str, Any]:
    low, high = (None, None) if value is None else (value * 0.9, value * 1.1)
    return {
        "name": name,
        "model": model,
        "subset": subset,
        "value": value,
        "low": low,
        "high": high,
        "unit": "fraction",
        "n": n,
        "n_unit": unit,
        **({"failed": "the regression kept no coefficient at C = 500"} if value is None else {}),
    }


def comparison(
    name: str,
    subset: str,
    against: str,
    interval: tuple[float, float] | None,
    against_subset: str | None = None,
    *,
    model: str = "trained",
) -> dict[str, Any]:
    return {
        "name": name,
        "subset": subset,
        "model": model,
        "against": against,
        "against_subset": against_subset or subset,
        "difference": None if interval is None else sum(interval) / 2,
        "low": None if interval is None else interval[0],
        "high": None if interval is None else interval[1],
        "n": 8,
        "n_unit": "family",
        **({"failed": "the regression kept no coefficient"} if interval is None else {}),
    }


def perplexity(*, synthetic: bool = True) -> dict[str, Any]:
    values = {"trained": 9.5, "untrained": 20.0, "residue_frequencies": 18.0}
    if synthetic:
        values |= {"site_independent": 12.0, "exact_optimum": 6.0}
    names = ("perplexity_training_masks", "perplexity_mask_positions")
    return {
        "evaluation": "perplexity",
        "model": dict(MODEL),
        "protocol": {"draws": 3, "targets": "the 20 amino acids"},
        "metrics": [
            *(
                metric(f"{name}{suffix}", model, "validation", value, "cluster", 50)
                for name in names
                for suffix in ("", "_20")
                for model, value in values.items()
            ),
            *([metric("gap_closed", "trained", "validation", 0.34)] if synthetic else []),
        ],
        "comparisons": [
            comparison("cross_entropy_mask_positions_20", "validation", model, (-0.3, -0.2))
            for model in values
            if model != "trained"
        ],
    }


def contacts(*, unseen: bool = True) -> dict[str, Any]:
    name = "precision_at_contacts"
    values = {
        "trained": 0.5,
        "untrained": 0.04,
        "mean_map": 0.05,
        "separation_prior": 0.06,
        "random_pairs": 0.02,
    }
    ranges = [
        f"precision_at_{top}_{scope}"
        for scope in ("short", "medium", "long", "all")
        for top in ("L", "L2", "L5")
    ]
    return {
        "evaluation": "contacts",
        "model": dict(MODEL),
        "protocol": {"minimum_separation": 6, "C": 50.0},
        "metrics": [
            *(metric(name, model, "test", value) for model, value in values.items()),
            *(metric(name, model, "unseen", 0.05) for model in values if unseen),
            *(metric(each, "trained", "test", 0.3) for each in ranges),
        ],
        "comparisons": [
            *(
                comparison(name, "test", model, (0.3, 0.5))
                for model in values
                if model != "trained"
            ),
            *([comparison(name, "test", "trained", (0.3, 0.6), "unseen")] if unseen else []),
        ],
        "untrained_fits": [{"coefficients_kept": 3}, {"coefficients_kept": 0}],
    }


def secondary_structure(*, unseen: bool = True) -> dict[str, Any]:
    values = {"trained": 0.7, "untrained": 0.5, "one_hot_window": 0.6, "majority_class": 0.4}
    subsets = ["test", "unseen", "not_fitted"] if unseen else ["test"]
    names = ["three_state_accuracy", "three_state_accuracy_per_residue"]
    counts = [[8.0, 1.0, 1.0], [2.0, 6.0, 2.0], [0.0, 1.0, 9.0]]
    return {
        "evaluation": "secondary_structure",
        "model": dict(MODEL),
        "protocol": {"one_hot_window": 15},
        "metrics": [
            metric(name, model, subset, value)
            for name in [*names, "recall_H", "recall_E", "recall_C"]
            for subset in subsets
            for model, value in values.items()
        ],
        "comparisons": [
            comparison(names[0], subset, model, (0.05, 0.15))
            for subset in subsets
            for model in values
            if model != "trained"
        ],
        "confusion": {
            subset: {model: {"states": "HEC", "counts": counts} for model in values}
            for subset in subsets
        },
    }


def variants(*, synthetic: bool = True) -> dict[str, Any]:
    values = {"trained": 0.8, "untrained": 0.02, "blosum62": 0.3, "position_mean": 0.7}
    if synthetic:
        values["site_independent"] = 0.6
    subsets = ["test", "unseen"] if synthetic else ["assays"]
    names = ["spearman", "ndcg", "spearman_1_mutation", "spearman_2_mutations"]
    names += [] if synthetic else ["spearman_by_category"]
    assays = [
        {
            **{"name": f"{subset}-{number}", "protein": f"{subset}-{number}", "category": None},
            "kind": subset if synthetic else None,
            "metrics": {
                "spearman": {model: value - number / 10 for model, value in values.items()}
            },
        }
        for subset in subsets
        for number in range(2)
    ]
    return {
        "evaluation": "variants",
        "model": dict(MODEL),
        "protocol": {"convention": "masked-marginals", "untrained_networks": 3},
        "metrics": [
            *(
                metric(name, model, subset, value)
                for name in names
                for subset in subsets
                for model, value in values.items()
            ),
            *(metric("spearman_epistasis", "trained", subset, 0.4) for subset in subsets),
        ],
        "comparisons": [
            *(
                comparison("spearman", subset, model, (0.1, 0.3))
                for subset in subsets
                for model in values
                if model != "trained"
            ),
            *(
                [comparison("spearman", "test", "trained", (0.3, 0.6), "unseen")]
                if synthetic
                else []
            ),
        ],
        "assays": assays,
    }


def write_evaluation(
    directory: Path, content: Mapping[str, Any], maps: Sequence[Mapping[str, Any]] | None = None
) -> Path:
    directory.mkdir(parents=True)
    (directory / "metrics.json").write_text(json.dumps(content))
    if content["evaluation"] == "contacts":
        table = pa.Table.from_pylist([contact_map()])
        table = table if maps is None else pa.Table.from_pylist(list(maps), schema=table.schema)
        pq.write_table(table, directory / "contact_maps.parquet")
    if content["evaluation"] == "variants":
        names = [entry["name"] for entry in content["assays"]]
        effects = [float(place) for place, _ in enumerate(names)]
        columns = {"assay": names, "epistasis": effects, "epistasis_trained": effects[::-1]}
        pq.write_table(pa.table(columns), directory / "variants.parquet")
    return directory


def contact_map() -> dict[str, Any]:
    length = 9
    return {
        "id": "family-01-00",
        "kind": "test",
        "length": length,
        "observed": [True] * length,
        "contact_i": [0, 1],
        "contact_j": [7, 8],
        "probability": [0.25] * length**2,
    }


def write_run(directory: Path) -> tuple[Path, Path, Path]:
    """Write model, corpus and metrics.jsonl of a tiny run and return their paths."""
    model = directory / "model"
    model.mkdir(parents=True)
    (model / "esm1b.json").write_text(json.dumps(MODEL))
    shape = {
        "vocab_size": 33,
        "position_embedding_type": "absolute",
        "token_dropout": True,
        "layer_norm_eps": 1e-5,
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 66,
        "emb_layer_norm_before": True,
    }
    (model / "config.json").write_text(json.dumps(shape))
    corpus = directory / "corpus"
    corpus.mkdir()
    (corpus / "manifest.json").write_text(json.dumps(MANIFEST))
    training = directory / "metrics.jsonl"
    training.write_text("".join(json.dumps(line) + "\n" for line in TRAINING))
    return model, corpus, training


MANIFEST: Mapping[str, Any] = {
    "format": "esm1b-corpus",
    "format_version": 1,
    "source": {},
    "inputs": [{"file": "tiny.fasta", "bytes": 12345, "sha256": "a" * 64}],
    "counts": {"read": 103, "kept": 100, "dropped": {"duplicate_id": 3, "empty_sequence": 0}},
    "sequences": {"train": 90, "validation": 10},
    "residues": {"train": 900, "validation": 100},
    "length_histogram": {"edges": [8, 10, 12, 40], "train": [30, 40, 20], "validation": [3, 4, 3]},
    "composition": {"A": 600, "L": 400},
    "selection": {"strict": False},
    "split": {"method": "sequence-hash", "fraction": 0.1},
    "shards": {"train": [], "validation": []},
    "fingerprint": "c" * 64,
}

AUDIT: Mapping[str, Any] = {
    "tokens_fingerprint": "f" * 64,
    "updates": 20,
    "sequences": 90,
    "whole_epochs": 2,
    "sequences_of_epoch": 30,
    "times_seen": {"10": 1, "2": 59, "3": 30},
    "updates_compared": 20,
    "lines_compared": 4,
    "skipped": [],
    "failures": [],
}

TRAINING: Sequence[Mapping[str, Any]] = [
    *(
        {
            "update": update,
            "attempt": 1 if update <= 10 else 2,
            "loss": 3.0 - update / 20,
            "learning_rate": 1e-3,
            "gradient_norm": 0.5,
            "tokens_per_second": 1000.0,
        }
        for update in (5, 10, 15, 20)
    ),
    *(
        {
            "update": update,
            "attempt": 1 if update <= 10 else 2,
            "validation_loss": 2.5,
            "validation_perplexity": 12.2,
        }
        for update in (10, 20)
    ),
]
