"""Training throughput of a network on one device, and its model FLOPs utilization."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.masked_sequences import MaskedSequences, PackedBatch, PaddedBatch
from esm1b.model.encoder import Encoder
from esm1b.model.shape import EncoderShape
from esm1b.pretraining.planning.gpus import flops_per_token

# Dense bf16 of an H100 SXM or H200 (NVIDIA's datasheets)
PEAK_FLOPS = 989e12

WARM_UP = 3


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Training after the warm-up.

    Attributes:
        tokens: real tokens, special tokens included, filler and padding excluded.
        positions: positions computed by the network, filler and padding included.
        mean_square_length: sum of squared lengths over `tokens`.
        seconds: seconds of each update.
        first_seconds: seconds of the first update of the warm-up, compilation included.
        first_loss: loss before any update.
        peak_memory_bytes: peak memory allocated on the device; 0 on CPU.
    """

    tokens: int
    positions: int
    mean_square_length: float
    seconds: list[float]
    first_seconds: float
    first_loss: float
    peak_memory_bytes: int

    def summary(self, shape: EncoderShape) -> dict[str, Any]:
        """Return the entry of a side in the result."""
        rate = self.tokens / sum(self.seconds)
        flops = flops_per_token(shape, self.mean_square_length)
        return {
            "unpadded_tokens_per_second": round(rate),
            "positions_per_second": round(self.positions / sum(self.seconds)),
            "padded_positions": self.positions - self.tokens,
            "unpadded_tokens": self.tokens,
            "gflops_per_token": round(flops / 1e9, 3),
            "model_flops_utilisation": round(rate * flops / PEAK_FLOPS, 4),
            "median_seconds_of_an_update": round(median(self.seconds), 4),
            "lowest_and_highest": [round(min(self.seconds), 4), round(max(self.seconds), 4)],
            "seconds_of_the_first_update": round(self.first_seconds, 2),
            "first_loss": self.first_loss,
            "peak_memory_gib": round(self.peak_memory_bytes / 2**30, 2),
        }


def fill_capacity(
    members: Sequence[int], lengths: Sequence[int], *, capacity: int
) -> list[list[int]]:
    """Cut `members`, in order, into batches of at most `capacity` tokens."""
    batches: list[list[int]] = [[]]
    tokens = 0
    for member in members:
        if batches[-1] and tokens + lengths[member] > capacity:
            batches.append([])
            tokens = 0
        batches[-1].append(member)
        tokens += lengths[member]
    return batches


def fit_positions(
    members: Sequence[int], lengths: Sequence[int], *, positions: int
) -> list[list[int]]:
    """Cut `members`, in order, into batches of at most `positions` positions when padded."""
    batches: list[list[int]] = [[]]
    longest = 0
    for member in members:
        longest = max(longest, lengths[member])
        if batches[-1] and longest * (len(batches[-1]) + 1) > positions:
            batches.append([])
            longest = lengths[member]
        batches[-1].append(member)
    return batches


def measure_packed(
    encoder: Encoder, sequences: MaskedSequences, *, updates: list[list[int]], capacity: int
) -> Throughput:
    """Train on one micro-batch per update, filled up to `capacity` tokens.

    Args:
        encoder: encoder on the device and in the precision to measure.
        sequences: training sequences.
        updates: indices of the sequences of each update; the first three updates warm up.
        capacity: tokens of a micro-batch, filler included.
    """
    device = encoder.embed_tokens.weight.device
    longest = encoder.shape.maximum_tokens
    most = max(map(len, updates)) + -(-capacity // longest)

    def on_device(members: list[int]) -> PackedBatch:
        batch = sequences.pack(members, device)
        filled = batch.packed.filled(capacity=capacity, sequences=most, longest=longest)
        return replace(batch, packed=filled)

    def loss(batch: PackedBatch) -> Tensor:
        logits = encoder(batch.packed, batch.masked_positions)
        return functional.cross_entropy(logits.float(), batch.targets, reduction="sum")

    batches = [[on_device(members)] for members in updates]
    return _measure(
        encoder,
        batches,
        loss,
        masked=[sequences.masked_count(members) for members in updates],
        lengths=[[sequences.lengths[member] for member in members] for members in updates],
        positions=[capacity] * len(updates),
    )


def measure_padded(
    network: nn.Module, sequences: MaskedSequences, *, updates: list[list[list[int]]]
) -> Throughput:
    """Train `EsmForMaskedLM` on several padded micro-batches per update.

    Args:
        network: network on the device and in the precision to measure.
        sequences: training sequences.
        updates: indices of the sequences of each micro-batch of each update; the first three
            updates warm up.
    """
    device = next(network.parameters()).device

    def loss(batch: PaddedBatch) -> Tensor:
        logits = network(input_ids=batch.tokens, attention_mask=batch.attention_mask).logits
        return functional.cross_entropy(
            logits.flatten(0, 1).float(), batch.labels.flatten(), reduction="sum"
        )

    members = [[member for batch in update for member in batch] for update in updates]
    batches = [[sequences.pad(batch, device) for batch in update] for update in updates]
    return _measure(
        network,
        batches,
        loss,
        masked=[sequences.masked_count(update) for update in members],
        lengths=[[sequences.lengths[member] for member in update] for update in members],
        positions=[sum(batch.tokens.numel() for batch in update) for update in batches],
    )


def _measure(
    network: nn.Module,
    batches: list[list[Any]],
    summed_loss: Callable[[Any], Tensor],
    *,
    masked: list[int],
    lengths: list[list[int]],
    positions: list[int],
) -> Throughput:
    """Do an update for each item of `batches`, which are on the device already."""
    device = next(network.parameters()).device
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.9, 0.98), fused=True)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def update(number: int) -> Tensor:
        loss = torch.zeros((), device=device)
        for batch in batches[number]:
            part = summed_loss(batch) / masked[number]
            part.backward()  # type: ignore[no-untyped-call]  # torch's, untyped
            loss += part.detach()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    seconds: list[float] = []
    first_loss = 0.0
    for number in range(len(batches)):
        started = _now(device)
        loss = update(number)
        seconds.append(_now(device) - started)
        if number == 0:
            first_loss = loss.item()
    counted = [length for update in lengths[WARM_UP:] for length in update]
    return Throughput(
        tokens=sum(counted),
        positions=sum(positions[WARM_UP:]),
        mean_square_length=sum(length**2 for length in counted) / sum(counted),
        seconds=seconds[WARM_UP:],
        first_seconds=seconds[0],
        first_loss=first_loss,
        peak_memory_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
    )


def _now(device: torch.device) -> float:
    """Wait for the device and return the time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()
