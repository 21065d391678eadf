"""Variant scores and pseudo-perplexities, compared with fair-esm's and transformers' loops.

`variants`: all single substitutions of a protein by masked marginals. `packed` runs the code of
`esm1b variants`; `fair-esm` is the loop of its `examples/variant-prediction/predict.py`, one pass
for each masked token. `pseudo_perplexity`: `packed` runs the code of `esm1b score`, `transformers`
takes the masked copies of each protein in batches. Both sides of a comparison have the same weights
and must agree; reading and writing files does not count.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.embedding import fair_esm_arguments
from benchmarks.interleaving import Measured, Work, measure_in_turn
from benchmarks.machine import describe_machine
from benchmarks.network import add_network_options, describe_shape, initial_encoder
from benchmarks.proteins import describe_sequences, read_or_draw
from esm1b.alphabet import AMINO_ACIDS, MASK, encode
from esm1b.inference.model import Model, Precision, load_model
from esm1b.scoring.mutations import Variant, all_substitutions
from esm1b.scoring.variant_scores import score_variants
from esm1b.scoring.weighted_passes import chunks, likelihood_passes, values
from esm1b.weights.model_directory import ModelDirectory
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model

# Largest difference of scores, in nats; in bf16 of ours, that of its rounding.
_TOLERANCES: Mapping[Precision, float] = {"fp32": 5e-5, "bf16": 0.5}


class PackedVariants(Work):
    """The work of `esm1b variants` between reading and writing."""

    def __init__(
        self, model: Path, wild_type: str, variants: list[Variant], precision: Precision
    ) -> None:
        self._model = load_model(model, device="cpu", precision=precision)
        self._wild_type, self._variants = wild_type, variants

    def first(self) -> NDArray[np.float64]:
        """Return the scores `[variants]`."""
        return score_variants(self._model, self._wild_type, self._variants)


class FairEsmVariants(Work):
    """The loop of fair-esm's `predict.py --scoring-strategy masked-marginals`."""

    def __init__(
        self, model: Path, wild_type: str, variants: list[Variant], positions: int | None
    ) -> None:
        from esm import Alphabet, ProteinBertModel

        encoder = ModelDirectory(model).read().encoder
        alphabet = Alphabet.from_architecture("roberta_large")
        self._network = ProteinBertModel(fair_esm_arguments(encoder.shape), alphabet).eval()
        # not strict: the contact head, which is unused, and the tied projection are missing
        self._network.load_state_dict(encoder.state_dict(), strict=False)
        _, _, self._tokens = alphabet.get_batch_converter()([("protein", wild_type)])
        self._variants = variants
        # The script masks every token, special ones too.
        self._masked = range(self._tokens.size(1) if positions is None else positions + 1)

    @torch.no_grad()
    def first(self) -> NDArray[np.float64]:
        """Return the scores `[variants]`."""
        rows = []
        for place in self._masked:
            masked = self._tokens.clone()
            masked[0, place] = MASK
            logits = self._network(masked)["logits"]
            rows.append(torch.log_softmax(logits, dim=-1)[:, place])
        found = torch.cat(rows).numpy()
        return np.array([_difference(found, variant) for variant in self._variants])


class PackedLikelihoods(Work):
    """The work of `esm1b score` between reading and writing."""

    def __init__(self, model: Path, sequences: list[str], precision: Precision) -> None:
        self._model: Model = load_model(model, device="cpu", precision=precision)
        self._sequences = sequences

    def first(self) -> NDArray[np.float64]:
        """Return the pseudo-log-likelihood of each sequence."""
        sums = np.zeros(len(self._sequences))
        passes = chain.from_iterable(
            likelihood_passes(
                self._model,
                self._model.framed(encode(sequence)),
                np.full(len(sequence), row),
                is_masked=True,
                window="optimal",
            )
            for row, sequence in enumerate(self._sequences)
        )
        for chunk in chunks(passes, self._model, None):
            for each, found in zip(chunk, values(self._model, chunk, None), strict=True):
                each.add_to(sums, found)
        return sums


class TransformersLikelihoods(Work):
    """Batches of the masked copies of a protein through `EsmForMaskedLM`."""

    def __init__(self, model: Path, sequences: list[str], copies: int) -> None:
        from transformers import EsmForMaskedLM

        load: Any = EsmForMaskedLM.from_pretrained
        self._network = load(model, attn_implementation="sdpa").eval()
        self._sequences, self._copies = sequences, copies
        self._model = load_model(model, device="cpu")

    @torch.no_grad()
    def first(self) -> NDArray[np.float64]:
        """Return the pseudo-log-likelihood of each sequence."""
        sums = []
        for sequence in self._sequences:
            tokens = torch.from_numpy(self._model.framed(encode(sequence)).astype(np.int64))
            total = 0.0
            for places in torch.split(torch.arange(1, len(sequence) + 1), self._copies):
                masked = tokens.repeat(len(places), 1)
                rows = torch.arange(len(places))
                masked[rows, places] = MASK
                logits = self._network(masked).logits[rows, places]
                found = torch.log_softmax(logits, dim=-1)[rows, tokens[places]]
                total += float(found.double().sum())
            sums.append(total)
        return np.array(sums)


def _difference(rows: NDArray[np.float32], variant: Variant) -> float:
    (mutation,) = variant.mutations
    wild_type, mutant = encode(mutation.wild_type + mutation.mutant)
    row = rows[mutation.position + 1]  # after <cls>
    return float(row[mutant] - row[wild_type])


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--length", type=int, default=286, help="residues of the wild type")
    parser.add_argument("--positions", type=int, help="first positions to score (default: all)")
    parser.add_argument("--proteins", type=int, default=100, help="proteins to score")
    parser.add_argument("--longest", type=int, default=128, help="residues that they keep")
    parser.add_argument("--copies", type=int, default=32, help="copies in transformers' batches")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="precision of our side"
    )
    add_network_options(parser, layers=6, width=320, heads=20)
    parser.add_argument("--passes", type=int, default=3, help="passes over all variants")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all sides and return the result."""
    drawn = read_or_draw(None, residues=400 * (options.proteins + 1), seed=options.seed)
    sequences = [sequence[: options.longest] for sequence in drawn[: options.proteins]]
    random = np.random.default_rng(options.seed)
    wild_type = "".join(random.choice(list(AMINO_ACIDS), options.length))
    scored = wild_type if options.positions is None else wild_type[: options.positions]
    variants = all_substitutions(scored)
    with tempfile.TemporaryDirectory() as folder:
        encoder = initial_encoder(options)
        model = Path(folder) / "model"
        save_model(encoder, model, Provenance())
        comparisons: dict[str, dict[str, Callable[[], Work]]] = {
            "variants": {
                "packed": partial(PackedVariants, model, wild_type, variants, options.precision),
                "fair-esm": partial(FairEsmVariants, model, wild_type, variants, options.positions),
            },
        }
        if sequences:
            comparisons["pseudo_perplexity"] = {
                "packed": partial(PackedLikelihoods, model, sequences, options.precision),
                "transformers": partial(TransformersLikelihoods, model, sequences, options.copies),
            }
        results = {
            name: _compare(sides, options, variants if name == "variants" else sequences)
            for name, sides in comparisons.items()
        }
    return {
        "benchmark": "variant scores and pseudo-perplexity; float32 on CPU, ours as said",
        "machine": describe_machine(options.threads),
        "shape": describe_shape(encoder.shape),
        "settings": {
            "wild_type": f"{len(wild_type)} random residues, {len(scored)} positions scored",
            "packed": options.precision,
            "transformers": f"{options.copies} masked copies in a batch",
            "order": "sides in turn; each side in a process of its own",
        },
        "proteins": describe_sequences(sequences, None, options.seed) if sequences else None,
        **results,
    }


def _compare(
    sides: Mapping[str, Callable[[], Work]], options: argparse.Namespace, items: list[Any]
) -> dict[str, Any]:
    measured = measure_in_turn(sides, passes=options.passes, pieces=1, threads=options.threads)
    (_, ours), (peer, theirs) = measured.items()
    difference = float(np.abs(ours.first - theirs.first).max())
    # A pseudo-log-likelihood is a sum over as many residues.
    tolerance = _TOLERANCES[options.precision] * (options.longest if peer != "fair-esm" else 1)
    if difference > tolerance:
        raise RuntimeError(f"scores differ by {difference}; expected at most {tolerance}")
    return {
        "items": len(items),
        "largest_difference": difference,
        "sides": {name: _summary(side) for name, side in measured.items()},
        "ratios": {f"{peer} / packed": theirs.compared_with(ours)},
    }


def _summary(side: Measured) -> dict[str, Any]:
    return {
        "median_seconds": round(median(side.pass_seconds), 3),
        "peak_memory_mib": round(side.peak_memory_bytes / 2**20),
        "memory_before_work_mib": round(side.memory_before_bytes / 2**20),
        "seconds_by_pass": [round(second, 3) for second in side.pass_seconds],
    }
