"""Forward, backward and Adam on packed sequences, compared with padding in `transformers`.

All sides start from the same weights and train on the same masked sequences, with about the same
number of real tokens per update and the same optimizer. They batch differently:

- `packed`: this package's encoder, sequences in random order, end to end;
- `padded`: `EsmForMaskedLM`, sequences in the same order, each batch padded to its longest;
- `grouped`: `EsmForMaskedLM`, sequences sorted by length over a whole pass, then padded.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn import functional

from benchmarks.interleaving import Measured, Work, measure_in_turn
from benchmarks.machine import describe_machine
from benchmarks.masked_sequences import MaskedSequences, deal, split_evenly
from benchmarks.network import add_network_options, describe_shape, initial_encoder
from benchmarks.proteins import add_fasta_option, describe_sequences, read_or_draw
from esm1b.weights.model_directory import ModelDirectory
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model

# Difference of losses with the same weights and tokens: float32 summed in different orders.
_LOSS_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Division of the sequences into micro-batches on one side.

    Attributes:
        updates: indices of the sequences of each micro-batch of each update of a pass.
        first: indices of the sequences of each micro-batch of the first loss, which all sides
            compute on the same sequences.
    """

    updates: list[list[list[int]]]
    first: list[list[int]]


class Training(Work):
    """Gradients of micro-batches, and an update of Adam; a subclass computes the losses."""

    def __init__(self, network: torch.nn.Module, sequences: MaskedSequences, plan: Plan) -> None:
        self._network = network.train()
        self._sequences = sequences
        self._plan = plan
        self._optimizer = torch.optim.AdamW(
            network.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-8, fused=True
        )

    def first(self) -> float:
        """Return the mean loss before any update."""
        loss = self._backward(self._plan.first)
        self._optimizer.zero_grad()
        return loss

    def run(self, piece: int) -> None:
        """Do update `piece` of a pass."""
        self._backward(self._plan.updates[piece])
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _backward(self, micro_batches: Sequence[list[int]]) -> float:
        masked = sum(self._sequences.masked_count(members) for members in micro_batches)
        total = 0.0
        for members in micro_batches:
            loss = self._summed_loss(members) / masked
            loss.backward()  # type: ignore[no-untyped-call]  # torch's, untyped
            total += loss.item()
        return total

    def _summed_loss(self, members: list[int]) -> torch.Tensor:
        raise NotImplementedError


class PackedTraining(Training):
    """This package's encoder."""

    def __init__(self, model: Path, sequences: MaskedSequences, plan: Plan) -> None:
        super().__init__(ModelDirectory(model).read().encoder, sequences, plan)

    def _summed_loss(self, members: list[int]) -> torch.Tensor:
        batch = self._sequences.pack(members)
        logits = self._network(batch.packed, batch.masked_positions)
        return functional.cross_entropy(logits, batch.targets, reduction="sum")


class TransformersTraining(Training):
    """Hugging Face's `EsmForMaskedLM` by default: scaled dot-product attention with a mask."""

    def __init__(self, model: Path, sequences: MaskedSequences, plan: Plan) -> None:
        from transformers import EsmForMaskedLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        loader: Any = EsmForMaskedLM
        super().__init__(loader.from_pretrained(model), sequences, plan)

    def _summed_loss(self, members: list[int]) -> torch.Tensor:
        batch = self._sequences.pad(members)
        output = self._network(
            input_ids=batch.tokens, attention_mask=batch.attention_mask, labels=batch.labels
        )
        loss: torch.Tensor = output.loss * self._sequences.masked_count(members)
        return loss


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_fasta_option(parser)
    add_network_options(parser, layers=6, width=320, heads=20)
    parser.add_argument("--update-tokens", type=int, default=8192, help="real tokens of an update")
    parser.add_argument("--updates", type=int, default=3, help="updates of a pass")
    for side, tokens in (("packed", [2048]), ("padded", [8192, 2048]), ("grouped", [1024])):
        parser.add_argument(
            f"--{side}-tokens",
            type=int,
            nargs="*",
            default=tokens,
            help=f"real tokens of a micro-batch of `{side}`; several make several sides",
        )
    parser.add_argument("--passes", type=int, default=3, help="passes over all updates")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all sides and return the result."""
    texts = read_or_draw(
        options.fasta, residues=options.update_tokens * options.updates, seed=options.seed
    )
    sequences = MaskedSequences.of(texts, seed=options.seed)
    machine = describe_machine(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        encoder = initial_encoder(options)
        save_model(encoder, Path(folder) / "model", Provenance())
        sides, plans = _sides(options, Path(folder) / "model", sequences)
        measured = measure_in_turn(
            sides, passes=options.passes, pieces=options.updates, threads=options.threads
        )
    losses = [side.first for side in measured.values()]
    if max(losses) - min(losses) > _LOSS_TOLERANCE:
        raise RuntimeError(f"first losses differ by more than {_LOSS_TOLERANCE}: {losses}")
    ours = next(iter(measured.values()))
    return {
        "benchmark": "encoder training: forward, backward, Adam; float32 on CPU",
        "machine": machine,
        "shape": describe_shape(encoder.shape),
        "sequences": describe_sequences(texts, options.fasta, options.seed),
        "settings": {
            "updates_in_a_pass": options.updates,
            "passes": options.passes,
            "optimizer": "torch.optim.AdamW, fused, the same on all sides",
            "order": "sides in turn, an update each; each side in a process of its own",
        },
        "sides": {
            name: _summary(side, plans[name], sequences, padded=not name.startswith("packed"))
            for name, side in measured.items()
        },
        "ratios": {
            f"{name} / {next(iter(measured))}": side.compared_with(ours)
            for name, side in list(measured.items())[1:]
        },
    }


def _sides(
    options: argparse.Namespace, model: Path, sequences: MaskedSequences
) -> tuple[dict[str, Callable[[], Work]], dict[str, Plan]]:
    lengths = sequences.lengths
    everything = list(range(len(lengths)))
    total = sum(lengths)
    updates = split_evenly(everything, lengths, tokens=-(-total // options.updates))
    sides: dict[str, Callable[[], Work]] = {}
    plans: dict[str, Plan] = {}
    for kind, build in (
        ("packed", PackedTraining),
        ("padded", TransformersTraining),
        ("grouped", TransformersTraining),
    ):
        for tokens in getattr(options, f"{kind}_tokens"):
            in_order = [split_evenly(update, lengths, tokens=tokens) for update in updates]
            if kind == "grouped":
                by_length = sorted(everything, key=lambda member: lengths[member])
                batches = split_evenly(by_length, lengths, tokens=tokens)
                plan = Plan(updates=deal(batches, len(updates), seed=0), first=in_order[0])
            else:
                plan = Plan(updates=in_order, first=in_order[0])
            name = f"{kind} {tokens}"
            plans[name] = plan
            sides[name] = partial(build, model, sequences, plan)
    return sides, plans


def _summary(
    side: Measured, plan: Plan, sequences: MaskedSequences, *, padded: bool
) -> dict[str, Any]:
    lengths = sequences.lengths
    micro_batches = [batch for update in plan.updates for batch in update]
    positions = sum(
        len(batch) * max(lengths[member] for member in batch) if padded else 0
        for batch in micro_batches
    )
    seconds = median(side.pass_seconds)
    return {
        "first_loss": side.first,
        "micro_batches_in_a_pass": len(micro_batches),
        "real_tokens_in_a_pass": sum(lengths),
        "padded_positions_in_a_pass": positions - sum(lengths) if padded else 0,
        "median_seconds_of_a_pass": round(seconds, 3),
        "real_tokens_per_second": round(sum(lengths) / seconds),
        "peak_memory_mib": round(side.peak_memory_bytes / 2**20),
        "memory_before_work_mib": round(side.memory_before_bytes / 2**20),
        "seconds_by_pass_and_update": [[round(s, 3) for s in one] for one in side.seconds],
    }
