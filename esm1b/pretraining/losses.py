"""The training loss of a micro-batch: sums over its masked positions."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from esm1b.batches.micro_batch import MicroBatch
from esm1b.batches.packing import Filling
from esm1b.model.packed import PackedTokens


class MaskedLosses(NamedTuple):
    """Sums over the masked positions of a batch, as tensors on the device.

    Attributes:
        loss: float32, cross-entropy in nats over the 33 tokens.
        correct: int64, number of positions whose likeliest token is the true one.
    """

    loss: Tensor
    correct: Tensor


def masked_losses(
    network: nn.Module, batch: MicroBatch, device: torch.device, filling: Filling | None = None
) -> MaskedLosses:
    """Run `network` on a batch and return the sums over its masked positions.

    The host does not wait for the device.
    """
    packed = PackedTokens.from_tokens(torch.from_numpy(batch.tokens), batch.lengths.tolist())
    if filling is not None:
        packed = packed.filled(**vars(filling))
    names = ("tokens", "cumulative_lengths", "sequence_index", "offsets")
    moved: dict[str, Any] = {name: _on_device(getattr(packed, name), device) for name in names}
    targets = _on_device(torch.from_numpy(batch.targets), device)
    positions = _on_device(torch.from_numpy(batch.masked_positions), device)
    logits = network(replace(packed, **moved), positions).float()
    return MaskedLosses(
        loss=functional.cross_entropy(logits, targets, reduction="sum"),
        correct=(logits.detach().argmax(-1) == targets).sum(),
    )


def perplexity(loss: float) -> float:
    """Return the exponential of a mean loss, bounded: a network that diverged exceeds any float."""
    return math.exp(min(loss, 700.0))


def _on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return `tensor` on `device`; only copies from pinned memory do not wait for the GPU."""
    if device.type != "cuda":
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)
