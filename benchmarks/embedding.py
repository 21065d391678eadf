"""Mean representations of the last layer: `esm1b embed` here, `scripts/extract.py` of fair-esm.

Both sides hold the same weights, take the same sequences as text and return one vector each;
reading and writing files is left out. fair-esm's side does what its script does: batches of at
most 4,096 padded tokens, sorted by length, truncated to 1,022 residues, mean over the residues.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.command import parser_of, run_command
from benchmarks.interleaving import Measured, measure
from benchmarks.machine import describe_machine
from benchmarks.proteins import LONGEST_SEQUENCE, describe_sequences, read_or_draw
from esm1b.alphabet import encode
from esm1b.inference.embed import Embedder
from esm1b.inference.fasta_input import EncodedRecord
from esm1b.inference.model import load_model
from esm1b.model.encoder import Encoder, initialise
from esm1b.model.shape import EncoderShape
from esm1b.weights.model_directory import ModelDirectory
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model

# Relative to the largest value: float32, and other orders of summation.
_TOLERANCE = 1e-4
# Options that scripts/extract.py has by default.
_TOKENS_IN_BATCH = 4096


class PackedEmbedding:
    """What `esm1b embed` does between reading and writing."""

    def __init__(self, model: Path, sequences: list[str], batch_tokens: int) -> None:
        loaded = load_model(model, device="cpu")
        self._sequences = sequences
        self._embedder = Embedder(
            model=loaded,
            layers=[loaded.shape.layers],
            per_residue=False,
            long_sequences="truncate",
            batch_tokens=batch_tokens,
        )
        self._schema = self._embedder.schema({})
        self._column = f"layer_{loaded.shape.layers}"

    def first(self) -> NDArray[np.float32]:
        """Return the embeddings `[sequences, width]`."""
        return self._embed()

    def run(self, piece: int) -> None:
        """Embed all sequences."""
        self._embed()

    def _embed(self) -> NDArray[np.float32]:
        records = (
            EncodedRecord(id=str(number), residues=encode(sequence))
            for number, sequence in enumerate(self._sequences)
        )
        columns = [
            self._embedder.table(chunk, self._schema)[self._column]
            for chunk in self._embedder.chunks(records)
        ]
        return np.concatenate([np.stack(column.to_numpy()) for column in columns])


class FairEsmEmbedding:
    """What `scripts/extract.py --include mean` of fair-esm does between reading and writing."""

    def __init__(self, model: Path, sequences: list[str]) -> None:
        from esm import Alphabet, FastaBatchedDataset, ProteinBertModel

        encoder = ModelDirectory(model).read().encoder
        alphabet = Alphabet.from_architecture("roberta_large")
        self._model = ProteinBertModel(_fair_esm_arguments(encoder.shape), alphabet).eval()
        # Not strict: the contact head, which is not used, and the tied projection are not there.
        self._model.load_state_dict(encoder.state_dict(), strict=False)
        dataset = FastaBatchedDataset([str(number) for number in range(len(sequences))], sequences)
        self._sequences = len(sequences)
        self._loader = torch.utils.data.DataLoader(
            dataset,
            collate_fn=alphabet.get_batch_converter(LONGEST_SEQUENCE),
            batch_sampler=dataset.get_batch_indices(_TOKENS_IN_BATCH, extra_toks_per_seq=1),
        )

    def first(self) -> NDArray[np.float32]:
        """Return the embeddings `[sequences, width]`."""
        return self._embed()

    def run(self, piece: int) -> None:
        """Embed all sequences."""
        self._embed()

    @torch.no_grad()
    def _embed(self) -> NDArray[np.float32]:
        layer = self._model.num_layers
        embeddings: dict[int, NDArray[np.float32]] = {}
        for labels, texts, tokens in self._loader:
            output = self._model(tokens, repr_layers=[layer], return_contacts=False)
            values = output["representations"][layer]
            for row, (label, text) in enumerate(zip(labels, texts, strict=True)):
                length = min(LONGEST_SEQUENCE, len(text))
                embeddings[int(label)] = values[row, 1 : length + 1].mean(0).numpy()
        return np.stack([embeddings[number] for number in range(self._sequences)])


def _fair_esm_arguments(shape: EncoderShape) -> argparse.Namespace:
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the result."""
    parser = parser_of("embedding", __doc__, layers=6, width=320, heads=20, passes=5)
    parser.add_argument("--residues", type=int, default=60_000, help="of all sequences")
    parser.add_argument(
        "--batch-tokens", type=int, default=8192, help="residues that this package takes at once"
    )
    run_command(parser, arguments, _measured)


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    sequences = read_or_draw(options.fasta, residues=options.residues, seed=options.seed)
    shape = EncoderShape(
        layers=options.layers,
        width=options.width,
        heads=options.heads,
        feed_forward=4 * options.width,
    )
    machine = describe_machine(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        encoder = Encoder(shape)
        initialise(encoder, options.seed)
        model = Path(folder) / "model"
        save_model(encoder, model, Provenance())
        measured = measure(
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
        "shape": {**asdict(shape), "parameters": shape.parameters()},
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


if __name__ == "__main__":
    main()
