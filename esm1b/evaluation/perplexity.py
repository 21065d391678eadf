"""Perplexity on held-out sequences: exponentiated cross-entropy at fixed masked positions.

Two ways of masking, the same masks for every model: as in training (80/10/10), and with every
chosen residue replaced by `<mask>`, so that the context is clean. The second is what the exact
references of synthetic families answer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from esm1b.alphabet import AMINO_ACIDS, FIRST_AMINO_ACID
from esm1b.batches.masking import VALIDATION_SEED, Corruption
from esm1b.batches.micro_batch import BatchRecipe, MicroBatch, make_batch
from esm1b.batches.stream import share_sequences
from esm1b.corpus.tokens.dataset import TokenDataset, open_tokens
from esm1b.errors import UserError
from esm1b.evaluation.bootstrap import Interval, bootstrap_ratio
from esm1b.evaluation.results import Comparison, Metric, write_metrics
from esm1b.files import atomic_directory, check_replaceable
from esm1b.inference.load_model import load_model, untrained_model
from esm1b.inference.model import Model
from esm1b.synthetic.dataset import load_truth
from esm1b.synthetic.exact_predictions import exact_predictions
from esm1b.weights.model_directory import ModelDirectory

_TOKENS_AT_ONCE: Final = 8192
_AMINO_ACIDS: Final = slice(FIRST_AMINO_ACID, FIRST_AMINO_ACID + len(AMINO_ACIDS))
# Residue frequencies settle long before this; a shard holds a random share of the corpus.
_FREQUENCY_SEQUENCES: Final = 100_000


@dataclass(frozen=True, kw_only=True)
class _Masked:
    """One masked batch and which of `sequences` each masked position belongs to."""

    batch: MicroBatch
    owners: NDArray[np.int64]
    sequences: int


@dataclass(frozen=True, kw_only=True)
class _Nats:
    """Cross-entropy of one model, summed by sequence: float64 `[sequences]` each, in nats."""

    over_33: NDArray[np.float64]
    over_20: NDArray[np.float64]


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
) -> None:
    """Score a model on the held-out split of `tokens` and write the results to `output`.

    Writes `metrics.json` and `sequences.parquet` (a row per held-out sequence). Only the 20 amino
    acids are targets; probabilities are over the 33 tokens, and renormalised to the 20.

    Args:
        model_directory: the trained model.
        tokens: a tokens directory; the first held-out sequences are scored, longer ones than the
            model's positions cropped at random.
        output: directory to write.
        sequences: how many to score at most.
        draws: how many times each sequence is masked.
        untrained: how many initialisations of the same network to compare with.
        truth: `truth.npz` of synthetic families; adds the exact references.
        seed: of the initialisations and the bootstrap.

    Raises:
        UserError: an input is missing or damaged, or the truth does not describe the sequences.
    """
    check_replaceable(output, "perplexity", [model_directory, tokens])
    model = load_model(model_directory)
    held_out = open_tokens(tokens, "validation")
    scored = np.arange(min(sequences, len(held_out)), dtype=np.int64)
    crop = model.longest_sequence
    recipes = [
        BatchRecipe(
            crop_residues=crop,
            append_eos=model.append_eos,
            rare_residues=model.rare_residues,
            seed=VALIDATION_SEED + draw,
        )
        for draw in range(draws)
    ]
    as_trained = _mask(held_out, scored, recipes, "training", model.width)
    mask_only = _mask(held_out, scored, recipes, "mask-only", model.width)
    frequencies = _residue_frequencies(open_tokens(tokens, "train"))
    networks = [untrained_model(model, seed + number) for number in range(untrained)]

    results: list[tuple[str, str, _Nats, NDArray[np.float64]]] = []
    for name, masked in (("training_masks", as_trained), ("mask_positions", mask_only)):
        counts = _sum_by_sequence(masked, [_is_scored(part).astype(float) for part in masked])
        results += [
            (name, "trained", _score(model, masked), counts),
            (name, "untrained", _mean([_score(network, masked) for network in networks]), counts),
            (name, "residue_frequencies", _score_fixed(frequencies, masked), counts),
        ]
    if truth is not None:
        counts = results[-1][3]
        for reference, nats in _score_truth(truth, mask_only, append_eos=model.append_eos).items():
            results.append(("mask_positions", reference, nats, counts))

    metrics = [metric for result in results for metric in _metrics(*result, seed)]
    clean = {kind: nats for name, kind, nats, _ in results if name == "mask_positions"}
    counts = results[-1][3]
    if truth is not None:
        metrics.append(_gap_closed(clean, len(scored), seed))
    with atomic_directory(output, "perplexity", [model_directory, tokens]) as directory:
        pq.write_table(_table(held_out, scored, clean, counts), directory / "sequences.parquet")
        write_metrics(
            directory,
            evaluation="perplexity",
            model=ModelDirectory(model_directory).description,
            protocol=_protocol(tokens, held_out, scored, crop, draws, counts),
            metrics=metrics,
            comparisons=_comparisons(clean, counts, seed),
        )


def _mask(
    dataset: TokenDataset,
    scored: NDArray[np.int64],
    recipes: Sequence[BatchRecipe],
    corruption: Corruption,
    width: int,
) -> list[_Masked]:
    """Return every draw of the scored sequences, in batches of a few thousand tokens."""
    parts = []
    for recipe in recipes:
        shares = share_sequences(
            dataset, scored, recipe, micro_batch_tokens=_TOKENS_AT_ONCE, width=width, processes=1
        )
        for share in shares:
            if len(share) == 0:
                continue
            batch = make_batch(
                dataset, scored[share], np.zeros_like(share), recipe, corruption=corruption
            )
            owner_of_token = np.repeat(scored[share], batch.lengths)
            owners = owner_of_token[batch.masked_positions]
            parts.append(_Masked(batch=batch, owners=owners, sequences=len(scored)))
    return parts


def _is_scored(part: _Masked) -> NDArray[np.bool_]:
    """Return which masked positions hold one of the 20 amino acids."""
    targets = part.batch.targets
    return (targets >= _AMINO_ACIDS.start) & (targets < _AMINO_ACIDS.stop)


def _sum_by_sequence(
    masked: Sequence[_Masked], values: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return the sum of `values` over the scored positions of each sequence."""
    kept = [_is_scored(part) for part in masked]
    owners = np.concatenate([part.owners[keep] for part, keep in zip(masked, kept, strict=True)])
    weights = np.concatenate([value[keep] for value, keep in zip(values, kept, strict=True)])
    # Counted, not taken from the largest owner: a short sequence may have nothing masked.
    sums: NDArray[np.float64] = np.bincount(
        owners, weights=weights, minlength=masked[0].sequences
    ).astype(np.float64)
    return sums


def _score(model: Model, masked: Sequence[_Masked]) -> _Nats:
    over_33, over_20 = [], []
    for part in masked:
        log_probabilities = model.masked_log_probabilities(part.batch)
        target = np.take_along_axis(log_probabilities, part.batch.targets[:, None], 1)[:, 0]
        over_33.append(-target)
        amino_acids = np.logaddexp.reduce(log_probabilities[:, _AMINO_ACIDS], axis=1)
        over_20.append(amino_acids - target)
    return _Nats(
        over_33=_sum_by_sequence(masked, over_33), over_20=_sum_by_sequence(masked, over_20)
    )


def _score_fixed(log_probabilities: NDArray[np.float64], masked: Sequence[_Masked]) -> _Nats:
    """Score a prediction `[20]` that is the same everywhere."""
    nats = [
        -log_probabilities[np.where(_is_scored(part), part.batch.targets - FIRST_AMINO_ACID, 0)]
        for part in masked
    ]
    summed = _sum_by_sequence(masked, nats)
    return _Nats(over_33=summed, over_20=summed)


def _mean(scores: Sequence[_Nats]) -> _Nats:
    return _Nats(
        over_33=np.mean([score.over_33 for score in scores], axis=0),
        over_20=np.mean([score.over_20 for score in scores], axis=0),
    )


def _residue_frequencies(dataset: TokenDataset) -> NDArray[np.float64]:
    """Return the log-frequencies `[20]` of the amino acids in the training sequences."""
    counts = np.ones(len(AMINO_ACIDS))  # Laplace's rule: no amino acid is impossible
    chosen = np.arange(min(_FREQUENCY_SEQUENCES, len(dataset)), dtype=np.int64)
    for share in np.array_split(chosen, max(1, len(chosen) // 1000)):
        lengths = dataset.lengths[share].astype(np.int64)
        residues = dataset.gather(share, np.zeros_like(lengths), lengths)
        counts += np.bincount(residues, minlength=_AMINO_ACIDS.stop)[_AMINO_ACIDS]
    result: NDArray[np.float64] = np.log(counts / counts.sum())
    return result


def _score_truth(truth: Path, masked: Sequence[_Masked], *, append_eos: bool) -> dict[str, _Nats]:
    """Return the exact references at the positions of `masked`, which hides all it chose."""
    families = load_truth(truth)
    inside = slice(1, -1 if append_eos else None)
    nats: dict[str, list[NDArray[np.float64]]] = {"site_independent": [], "exact_optimum": []}
    for part in masked:
        is_hidden = np.zeros(len(part.batch.tokens), dtype=bool)
        is_hidden[part.batch.masked_positions] = True
        bounds = np.cumsum(part.batch.lengths)[:-1]
        hidden = [piece[inside] for piece in np.split(is_hidden, bounds)]
        residues = [piece[inside] for piece in np.split(part.batch.tokens, bounds)]
        try:
            predictions = exact_predictions(
                families, [piece.astype(np.uint8) for piece in residues], hidden
            )
        except ValueError as error:
            raise UserError(
                f"{truth}: does not describe the held-out sequences: {error}; expected the file "
                "that synthesize wrote with them"
            ) from error
        columns = (part.batch.targets - FIRST_AMINO_ACID)[:, None]
        for name, rows in (
            ("site_independent", predictions.site_independent),
            ("exact_optimum", predictions.exact_optimum),
        ):
            nats[name].append(-np.take_along_axis(rows, columns, 1)[:, 0])
    summed = {name: _sum_by_sequence(masked, values) for name, values in nats.items()}
    return {name: _Nats(over_33=value, over_20=value) for name, value in summed.items()}


def _metrics(
    masks: str, model: str, nats: _Nats, counts: NDArray[np.float64], seed: int
) -> list[Metric]:
    return [
        Metric(
            name=f"perplexity_{masks}{suffix}",
            model=model,
            subset="validation",
            interval=_exponentiated(bootstrap_ratio(values, counts, seed=seed)),
            unit="perplexity",
            n_unit="cluster",
        )
        for suffix, values in (("", nats.over_33), ("_20", nats.over_20))
    ]


def _exponentiated(interval: Interval) -> Interval:
    return Interval(
        value=math.exp(interval.value),
        low=math.exp(interval.low),
        high=math.exp(interval.high),
        n=interval.n,
    )


def _gap_closed(clean: dict[str, _Nats], clusters: int, seed: int) -> Metric:
    """Return how much of the way from site-independent to exact cross-entropy was covered."""
    site = clean["site_independent"].over_20
    return Metric(
        name="gap_closed",
        model="trained",
        subset="validation",
        interval=bootstrap_ratio(
            site - clean["trained"].over_20, site - clean["exact_optimum"].over_20, seed=seed
        ),
        unit="fraction of the cross-entropy between site-independent and exact optimum",
        n_unit="cluster",
    )


def _comparisons(
    clean: dict[str, _Nats], counts: NDArray[np.float64], seed: int
) -> list[Comparison]:
    return [
        Comparison(
            name="cross_entropy_mask_positions_20",
            model="trained",
            subset="validation",
            against=against,
            against_subset="validation",
            interval=bootstrap_ratio(clean["trained"].over_20 - nats.over_20, counts, seed=seed),
            n_unit="cluster",
        )
        for against, nats in clean.items()
        if against != "trained"
    ]


def _protocol(
    tokens: Path,
    held_out: TokenDataset,
    scored: NDArray[np.int64],
    crop: int,
    draws: int,
    counts: NDArray[np.float64],
) -> dict[str, Any]:
    return {
        "training_masks": "15 % of the amino acids: 80 % <mask>, 10 % another, 10 % unchanged",
        "mask_positions": "15 % of the amino acids, every one <mask>",
        "targets": "the 20 amino acids",
        "classes": "33 tokens; _20: renormalised to the 20 amino acids",
        "draws": draws,
        "mask_seed": VALIDATION_SEED,
        "sequences": len(scored),
        "positions": int(counts.sum()),
        "cropped": int((held_out.lengths[scored] > crop).sum()),
        "tokens_fingerprint": held_out.fingerprint,
    }


def _table(
    held_out: TokenDataset,
    scored: NDArray[np.int64],
    clean: dict[str, _Nats],
    counts: NDArray[np.float64],
) -> pa.Table:
    return pa.table(
        {
            "sequence": scored,
            "length": held_out.lengths[scored],
            "masked_positions": counts.astype(np.int64),
            **{f"nats_{model}": nats.over_20 for model, nats in clean.items()},
        }
    )
