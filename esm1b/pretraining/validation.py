"""Perplexity on a fixed part of the held-out sequences, with fixed masks."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.distributed
from torch import nn

from esm1b.batches.packing import rounds_needed, share_out
from esm1b.batches.stream import BatchRecipe, MicroBatch, make_batch
from esm1b.corpus.tokens import TokenDataset
from esm1b.errors import UserError
from esm1b.pretraining.engine import Filling, masked_losses

__all__ = ["VALIDATION_SEED", "ValidationResult", "validate", "validation_batches"]

# Of the masks of validation and evaluation: the same for every run, so that runs can be compared.
VALIDATION_SEED: Final = 20_180_302


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """Means over the masked positions of the validation batches.

    Attributes:
        loss: cross-entropy in nats.
        accuracy: share of positions whose likeliest token is the true one.
    """

    loss: float
    accuracy: float

    @property
    def perplexity(self) -> float:
        """The exponentiated cross-entropy."""
        return math.exp(self.loss)


def validation_batches(
    dataset: TokenDataset,
    recipe: BatchRecipe,
    *,
    sequences: int,
    micro_batch_tokens: int,
    width: int,
    rank: int,
    processes: int,
) -> list[MicroBatch]:
    """Return this process's share of the first `sequences` held-out sequences, masked.

    Shards hold random shares of the corpus, so the first sequences are a fair sample.
    """
    chosen = np.arange(min(sequences, len(dataset)), dtype=np.int64)
    tokens = np.minimum(dataset.lengths[chosen].astype(np.int64), recipe.crop_residues) + 2
    rounds = rounds_needed(
        int(tokens.sum()), micro_batch_tokens=micro_batch_tokens, processes=processes
    )
    shares = share_out(tokens, micro_batches=rounds * processes, width=width)
    return [
        make_batch(dataset, chosen[share], np.zeros_like(chosen[share]), recipe)
        for share in shares[rank::processes]
    ]


@torch.no_grad()
def validate(
    network: nn.Module,
    batches: list[MicroBatch],
    device: torch.device,
    filling: Filling | None = None,
) -> ValidationResult:
    """Return the means over the batches of all processes; every process calls it."""
    network.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    for batch in batches:
        losses = masked_losses(network, batch, device, filling)
        sums += torch.stack(
            (
                losses.loss.double(),
                losses.correct.double(),
                torch.tensor(len(batch.targets), dtype=torch.float64, device=device),
            )
        )
    network.train()
    torch.distributed.all_reduce(sums)
    loss, correct, masked = sums.tolist()
    if masked == 0:
        raise UserError(
            "validation: the held-out sequences have no residue to mask; expected longer ones, or "
            "more of them"
        )
    return ValidationResult(loss=loss / masked, accuracy=correct / masked)
