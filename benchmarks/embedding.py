"""Mean representations of the last layer, compared with fair-esm's `scripts/extract.py`.

`packed` runs the code of `esm1b embed`. Both sides have the same weights, take the same sequences
as text and return one vector for each; reading and writing files does not count. `fair-esm` batches
as its script does: at most 4,096 padded tokens, sorted by length, truncated to 1,022 residues, mean
over the residues.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.interleaving import Measured, Work, measure_in_turn
from benchmarks.machine import describe_machine
from benchmarks.network import add_network_options, describe_shape, initial_encoder
from benchmarks.proteins import (
    LONGEST_SEQUENCE,
    add_fasta_option,
    describe_sequences,
    read_or_draw,
)
from esm1b.alphabet import encode
from esm1b.inference.embed import Embedder
from esm1b.inference.fasta_input import EncodedRecord
from esm1b.inference.model import load_model
from esm1b.model.shape import EncoderShape
from esm1b.weights.model_directory import ModelDirectory
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model

# Largest difference over largest value: float32 summed in different orders.
_TOLERANCE = 1e-4
# Default of scripts/extract.py
_TOKENS_IN_BATCH = 4096


class PackedEmbedding(Work):
    """The work of `esm1b embed` between reading and writing."""

    def __init__(self, model: Path, sequences: list[str], batch_tokens: int) -> None:
        self._model = load_model(model, device="cpu")
        self._sequences = sequences
        self._embedder = Embedder.of(
            self._model,
            layers=[-1],
            per_residue=False,
            long_sequences="truncate",
            batch_tokens=batch_tokens,
        )
        self._schema = self._embedder.schema({})
        self._column = f"layer_{self._model.shape.layers}"

    def first(self) -> NDArray[np.float32]:
        """Return the embeddings of all sequences `[sequences, width]`."""
        records = (
            EncodedRecord(id=str(number), residues=encode(sequence))
            for number, sequence in enumerate(self._sequences)
        )
        columns = [
            self._embedder.table(self._model, chunk, self._schema)[self._column]
            for chunk in self._embedder.chunks(records)
        ]
        return np.concatenate([np.stack(column.to_numpy()) for column in columns])


class FairEsmEmbedding(Work):
    """The work of fair-esm's `scripts/extract.py --include mean` between reading and writing."""

    def __init__(self, model: Path, sequences: list[str]) -> None:
        from esm import Alphabet, FastaBatchedDataset, ProteinBertModel

        encoder = ModelDirectory(model).read().encoder
        alphabet = Alphabet.from_architecture("roberta_large")
        self._model = ProteinBertModel(fair_esm_arguments(encoder.shape), alphabet).eval()
        # not strict: the contact head, which is unused, and the tied projection are missing
        self._model.load_state_dict(encoder.state_dict(), strict=False)
        dataset = FastaBatchedDataset([str(number) for number in range(len(sequences))], sequences)
        self._sequences = len(sequences)
        self._loader = torch.utils.data.DataLoader(
            dataset,
            collate_fn=alphabet.get_batch_converter(LONGEST_SEQUENCE),
            batch_sampler=dataset.get_batch_indices(_TOKENS_IN_BATCH, extra_toks_per_seq=1),
        )

    @torch.no_grad()
    def first(self) -> NDArray[np.float32]:
        """Return the embeddings of all sequences `[sequences, width]`."""
        layer = self._model.num_layers
        embeddings: dict[int, NDArray[np.float32]] = {}
        for labels, texts, tokens in self._loader:
            output = self._model(tokens, repr_layers=[layer], return_contacts=False)
            values = output["representations"][layer]
            for row, (label, text) in enumerate(zip(labels, texts, strict=True)):
                length = min(LONGEST_SEQUENCE, len(text))
                embeddings[int(label)] = values[row, 1 : length + 1].mean(0).numpy()
        return np.stack([embeddings[number] for number in range(self._sequences)])


def fair_esm_arguments(shape: EncoderShape) -> argparse.Namespace:
    """Return the arguments of fair-esm's network of this shape."""
    return argparse.Namespace(
        arch="roberta_large",
        layers=shape.layers,
        embed_dim=shape.width,
        ffn_embed_dim=shape.feed_forward,
        attention_heads=shape.heads,
        max_positions=shape.maximum_tokens,
        emb_layer_norm_before=shape.layer_norm_before,
        token_dropout=True,
        logit_bias=True,
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_fasta_option(parser)
    parser.add_argument(
        "--residues", type=int, default=60_000, help="residues of all sequences together"
    )
    add_network_options(parser, layers=6, width=320, heads=20)
    parser.add_argument(
        "--batch-tokens", type=int, default=8192, help="residues of a batch of the `packed` side"
    )
    parser.add_argument("--passes", type=int, default=5, help="passes over all sequences")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all sides and return the result."""
    sequences = read_or_draw(options.fasta, residues=options.residues, seed=options.seed)
    machine = describe_machine(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        encoder = initial_encoder(options)
        model = Path(folder) / "model"
        save_model(encoder, model, Provenance())
        measured = measure_in_turn(
            {
                "packed": partial(PackedEmbedding, model, sequences, options.batch_tokens),
                "fair-esm": partial(FairEsmEmbedding, model, sequences),
            },
            passes=options.passes,
            pieces=1,
            threads=options.threads,
        )
    ours, theirs = measured["packed"], measured["fair-esm"]
    difference = float(np.abs(ours.first - theirs.first).max() / np.abs(theirs.first).max())
    if difference > _TOLERANCE:
        raise RuntimeError(f"embeddings differ by {difference}; expected at most {_TOLERANCE}")
    residues = sum(map(len, sequences))
    return {
        "benchmark": "mean embeddings of the last layer; float32 on CPU",
        "machine": machine,
        "shape": describe_shape(encoder.shape),
        "sequences": describe_sequences(sequences, options.fasta, options.seed),
        "settings": {
            "passes": options.passes,
            "packed": f"{options.batch_tokens} residues at once, sorted by length",
            "fair-esm": f"{_TOKENS_IN_BATCH} padded tokens at once, as scripts/extract.py",
            "order": "sides in turn, all sequences each; each side in a process of its own",
        },
        "largest_relative_difference": difference,
        "sides": {name: _summary(side, residues) for name, side in measured.items()},
        "ratios": {"fair-esm / packed": theirs.compared_with(ours)},
    }


def _summary(side: Measured, residues: int) -> dict[str, Any]:
    seconds = median(side.pass_seconds)
    return {
        "median_seconds": round(seconds, 3),
        "residues_per_second": round(residues / seconds),
        "peak_memory_mib": round(side.peak_memory_bytes / 2**20),
        "memory_before_work_mib": round(side.memory_before_bytes / 2**20),
        "seconds_by_pass": [round(second, 3) for second in side.pass_seconds],
    }
