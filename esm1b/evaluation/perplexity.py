"""Perplexity on held-out sequences: `esm1b evaluate perplexity`.

Two ways of masking, the same masks for every model: as in training (80/10/10), and with every
chosen residue replaced by `<mask>`, so that the context is clean. The second is what the exact
references of synthetic families answer.
"""

import math
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from esm1b.batches.masking import VALIDATION_SEED, Corruption
from esm1b.corpus.tokens.dataset import TokenDataset
from esm1b.evaluation.bootstrap import Values
from esm1b.evaluation.cross_entropy import (
    CrossEntropy,
    mask_sequences,
    score_frequencies,
    score_network,
    score_truth,
)
from esm1b.evaluation.held_out import open_held_out
from esm1b.evaluation.inputs import describe_inputs
from esm1b.evaluation.networks import networks_of
from esm1b.evaluation.results import Interval, write_metrics
from esm1b.evaluation.summary import Summary
from esm1b.inference.model import Device, Model, Precision, load_model
from esm1b.outputs import atomic_directory
from esm1b.synthetic.dataset import TRUTH_FILE

_CORRUPTIONS: Final[Mapping[str, Corruption]] = {
    "training_masks": "training",
    "mask_positions": "mask-only",
}
_CLASSES: Final = ("", "_20")  # of the rows of a cross-entropy: 33 tokens, 20 amino acids
_GAP: Final = "fraction of the cross-entropy between site-independent and exact optimum"


def evaluate_perplexity(
    model_directory: Path,
    tokens: Path,
    output: Path,
    *,
    sequences: int = 2000,
    draws: int = 3,
    untrained: int = 3,
    truth: Path | None = None,
    seed: int = 0,
    batch_tokens: int = 8192,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Score a model on the held-out split of `tokens`, or on a FASTA file, and write the results.

    Without a corpus there are no residue frequencies to compare with.

    Writes `metrics.json` and `sequences.parquet` (a row per held-out sequence). Only the 20 amino
    acids are targets; probabilities are over the 33 tokens, and renormalised to the 20.

    Args:
        model_directory: the trained model.
        tokens: a tokens directory, of which the first held-out sequences are scored, or a FASTA
            file; sequences longer than the model's positions are cropped at random.
        output: directory to write.
        sequences: most sequences to score.
        draws: number of maskings of each sequence.
        untrained: number of random initialisations of the same network to compare with, or 0.
        truth: `truth.npz` of synthetic families; adds the exact references.
        seed: random seed of the initialisations and the bootstrap.
        batch_tokens: number of tokens in one forward pass.
        device: device of the networks.
        precision: precision of the networks.

    Raises:
        UserError: an input is missing or damaged, or the truth does not describe the sequences.
    """
    read = [model_directory, tokens, *([] if truth is None else [truth])]
    with atomic_directory(output, "perplexity", read) as directory:
        model = load_model(model_directory, device=device, precision=precision)
        source = open_held_out(tokens, model, sequences)
        held_out = source.dataset
        options: dict[str, Any] = {
            **{"sequences": sequences, "draws": draws, "untrained": untrained, "seed": seed},
            **{"batch_tokens": batch_tokens, "device": device, "precision": model.precision},
        }
        inputs = describe_inputs(
            directory,
            model.directory,
            options,
            **source.files,
            truth=truth / TRUTH_FILE if truth is not None and truth.is_dir() else truth,
        )
        sequences = min(sequences, len(held_out))
        networks = list(networks_of(model, untrained, seed))
        values: dict[str, dict[str, tuple[Values, ...]]] = {}
        for masks, corruption in _CORRUPTIONS.items():
            masked = mask_sequences(
                held_out,
                sequences,
                model,
                draws=draws,
                corruption=corruption,
                batch_tokens=batch_tokens,
            )
            targets = masked.targets()
            found: dict[str, list[CrossEntropy]] = {}
            for name, network in networks:
                found.setdefault(name, []).append(score_network(network, masked))
            scores = {name: np.mean(each, axis=0) for name, each in found.items()}
            if source.training is not None:
                scores["residue_frequencies"] = score_frequencies(source.training, masked)
            if truth is not None and corruption == "mask-only":
                scores |= score_truth(truth, masked, append_eos=model.append_eos)
            for row, suffix in enumerate(_CLASSES):
                values[f"perplexity_{masks}{suffix}"] = {
                    name: (score[row], targets) for name, score in scores.items()
                }
        # The masking that came last is the clean one, which the rest is about.
        clean = f"perplexity_{masks}_20"
        nats = {name: score for name, (score, _) in values[clean].items()}
        if truth is not None:
            site, optimum = nats["site_independent"], nats["exact_optimum"]
            values["gap_closed"] = {"trained": (site - nats["trained"], site - optimum)}
        summary = Summary(
            values=values,
            groups=np.arange(sequences).astype(object),
            subsets={source.subset: np.ones(sequences, dtype=bool)},
            unit=source.unit,
            seed=seed,
        )
        metrics = []
        for masks in _CORRUPTIONS:
            for name, suffix in product(values[f"perplexity_{masks}"], _CLASSES):
                metric = f"perplexity_{masks}{suffix}"
                interval = summary.resampled(values[metric][name], source.subset)
                value, low, high = map(math.exp, (interval.value, interval.low, interval.high))
                perplexity = Interval(value=value, low=low, high=high, n=interval.n)
                metrics.append(
                    summary.metric(
                        metric, name, source.subset, unit="perplexity", interval=perplexity
                    )
                )
        if truth is not None:
            metrics.append(summary.metric("gap_closed", "trained", source.subset, unit=_GAP))
        table = {
            "sequence": np.arange(sequences, dtype=np.int64),
            **({} if source.ids is None else {"id": source.ids}),
            "length": held_out.lengths[:sequences],
            "masked_positions": targets.astype(np.int64),
            **{f"nats_{name}": score for name, score in nats.items()},
        }
        pq.write_table(pa.table(table), directory / "sequences.parquet")
        write_metrics(
            directory,
            evaluation="perplexity",
            model=model.directory,
            inputs=inputs,
            protocol={
                **_protocol(held_out, model, draws, targets),
                "untrained_networks": untrained,
                "batch_tokens": batch_tokens,
                "device": model.device,
                "precision": model.precision,
            },
            metrics=metrics,
            comparisons=[
                summary.comparison(
                    clean, source.subset, name, called="cross_entropy_mask_positions_20"
                )
                for name in nats
                if name != "trained"
            ],
        )


def _protocol(held_out: TokenDataset, model: Model, draws: int, targets: Values) -> dict[str, Any]:
    lengths = held_out.lengths[: targets.size]
    return {
        "training_masks": "15 % of the amino acids: 80 % <mask>, 10 % another, 10 % unchanged",
        "mask_positions": "15 % of the amino acids, every one <mask>",
        "targets": "the 20 amino acids",
        "classes": "33 tokens; _20: renormalised to the 20 amino acids",
        "draws": draws,
        "mask_seed": VALIDATION_SEED,
        "sequences": targets.size,
        "positions": int(targets.sum()),
        "cropped": int((lengths > model.longest_sequence).sum()),
        "tokens_fingerprint": held_out.fingerprint,
    }
