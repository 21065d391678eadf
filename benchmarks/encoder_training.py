"""Forward, backward and Adam on packed sequences, compared with padding in `transformers`.

On CPU or on one GPU, in float32 or with weights, gradients and moments in bf16.

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
from typing import Any, Final, Literal

import torch
from torch.nn import functional

from benchmarks.interleaving import Measured, Work, measure_in_turn
from benchmarks.machine import describe_machine
from benchmarks.masked_sequences import MaskedSequences, deal, split_evenly
from benchmarks.network import (
    ORDER,
    add_network_options,
    add_place_options,
    check_place,
    describe_shape,
    initial_encoder,
)
from benchmarks.proteins import add_fasta_option, describe_sequences, read_or_draw
from esm1b.weights.model_directory import ModelDirectory
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model

# Difference of losses with the same weights and tokens, by sums in different orders and, in bf16,
# by a rounding of 0.4 % after each of dozens of operations
_LOSS_TOLERANCE: Final = {"fp32": 1e-4, "bf16": 5e-2}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Device and precision of a side, and whether the layers of our encoder are compiled."""

    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    compile: bool


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

    def __init__(
        self, network: torch.nn.Module, sequences: MaskedSequences, plan: Plan, place: Place
    ) -> None:
        self._device = torch.device(place.device)
        dtype = torch.bfloat16 if place.precision == "bf16" else torch.float32
        self._network = network.to(self._device, dtype).train()
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
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def last(self) -> float:
        """Return the peak memory of the GPU in GiB, 0 without one."""
        is_cuda = self._device.type == "cuda"
        return torch.cuda.max_memory_allocated() / 2**30 if is_cuda else 0.0

    def _backward(self, micro_batches: Sequence[list[int]]) -> float:
        masked = sum(self._sequences.masked_count(members) for members in micro_batches)
        total = torch.zeros((), device=self._device)
        for members in micro_batches:
            loss = self._summed_loss(members) / masked
            loss.backward()  # type: ignore[no-untyped-call]  # torch's, untyped
            total += loss.detach()
        return total.item()

    def _summed_loss(self, members: list[int]) -> torch.Tensor:
        raise NotImplementedError


class PackedTraining(Training):
    """This package's encoder."""

    def __init__(self, model: Path, sequences: MaskedSequences, plan: Plan, place: Place) -> None:
        encoder = ModelDirectory(model).read().encoder
        super().__init__(encoder, sequences, plan, place)
        self._longest = encoder.shape.maximum_tokens
        batches = [batch for update in plan.updates for batch in update]
        self._capacity = max(sum(sequences.lengths[m] for m in batch) for batch in batches)
        self._is_filled = place.compile
        if place.compile:
            encoder.compile_layers()

    def _summed_loss(self, members: list[int]) -> torch.Tensor:
        batch = self._sequences.pack(members, self._device)
        packed = batch.packed
        if self._is_filled:  # compiled layers take one shape
            packed = packed.filled(
                capacity=self._capacity, sequences=self._capacity // 128, longest=self._longest
            )
        logits = self._network(packed, batch.masked_positions).float()
        return functional.cross_entropy(logits, batch.targets, reduction="sum")


class TransformersTraining(Training):
    """Hugging Face's `EsmForMaskedLM` by default: scaled dot-product attention with a mask."""

    def __init__(self, model: Path, sequences: MaskedSequences, plan: Plan, place: Place) -> None:
        from transformers import EsmForMaskedLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        loader: Any = EsmForMaskedLM
        super().__init__(loader.from_pretrained(model), sequences, plan, place)

    def _summed_loss(self, members: list[int]) -> torch.Tensor:
        batch = self._sequences.pad(members, self._device)
        output = self._network(input_ids=batch.tokens, attention_mask=batch.attention_mask)
        logits = output.logits.flatten(0, 1).float()  # the model's own loss would be in bf16
        return functional.cross_entropy(logits, batch.labels.flatten(), reduction="sum")


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
    add_place_options(parser)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all sides and return the result.

    Raises:
        UserError: there is no GPU, or it would be needed to compile.
    """
    check_place(options)
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
            sides,
            passes=options.passes,
            pieces=options.updates,
            threads=options.threads,
            device=options.device,
        )
    losses = [side.first for side in measured.values()]
    tolerance = _LOSS_TOLERANCE[options.precision]
    if max(losses) - min(losses) > tolerance:
        raise RuntimeError(f"first losses differ by more than {tolerance}: {losses}")
    ours = next(iter(measured.values()))
    return {
        "benchmark": "encoder training: forward, backward, Adam",
        "machine": machine,
        "shape": describe_shape(encoder.shape),
        "sequences": describe_sequences(texts, options.fasta, options.seed),
        "settings": {
            "device": options.device,
            "precision": options.precision,
            "compiled": options.compile,
            "updates_in_a_pass": options.updates,
            "passes": options.passes,
            "optimizer": "torch.optim.AdamW, fused, the same on all sides",
            "order": ORDER[options.device],
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
    place = Place(device=options.device, precision=options.precision, compile=options.compile)
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
            sides[name] = partial(build, model, sequences, plan, place)
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
        "peak_device_memory_gib": round(side.last, 2),
        "peak_memory_mib": round(side.peak_memory_bytes / 2**20),
        "memory_before_work_mib": round(side.memory_before_bytes / 2**20),
        "seconds_by_pass_and_update": [[round(s, 3) for s in one] for one in side.seconds],
    }
