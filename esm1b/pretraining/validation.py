"""Perplexity on a fixed part of the held-out sequences, with fixed masks."""

import math
from dataclasses import replace
from typing import Final

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import nn

from esm1b.batches.masking import VALIDATION_SEED, Corruption
from esm1b.batches.micro_batch import BatchRecipe, make_batch
from esm1b.batches.packing import Filling
from esm1b.corpus.tokens.dataset import TokenDataset
from esm1b.errors import SharedUserError
from esm1b.pretraining.distributed.collectives import gathered
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.losses import masked_losses, perplexity

# Names of the results, and the corruption of the chosen positions.
_CORRUPTIONS: Final[dict[str, Corruption]] = {
    "validation": "training",
    "validation_mask": "mask-only",
}
# Mean tokens of a batch. They fit any GPU that trains the network, since no gradients are kept.
BATCH_TOKENS: Final = 8192


class Validation:
    """The first held-out sequences, masked at the same positions in two ways.

    Shards hold random shares of the corpus, so the first sequences are a fair sample. For
    `validation` the chosen positions are corrupted as in training, for `validation_mask` all of
    them are `<mask>`.

    For bitwise the same weights, the result is bitwise the same for any number of processes, ZeRO
    stage and micro-batch: batches hold the same sequences in the same order in all layouts, one
    process sums over a batch, and the sums of all batches are added in float64 and rounded once. It
    may differ in rounding (1e-6 relative in float32) where a batch itself is computed differently:
    on another device, with other threads, or filled up for a compiled network.

    Batches have `batch_tokens` on average. The masks have a seed of their own.

    Raises:
        UserError: the sequences have no residue to mask.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        recipe: BatchRecipe,
        *,
        sequences: int,
        place: Place,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        recipe = replace(recipe, seed=VALIDATION_SEED)
        members = _batch_members(dataset.lengths[:sequences], recipe, batch_tokens)
        # A network that is divided among processes (ZeRO 3) runs in all of them or in none, so
        # every process runs the same number of batches; the last ones may have no sequences.
        self._batches = -(-len(members) // place.processes) * place.processes
        members += [np.zeros(0, dtype=np.int64)] * (self._batches - len(members))
        self._mine = range(place.rank, self._batches, place.processes)
        mine = [members[number] for number in self._mine]
        self._shares = [
            [make_batch(dataset, m, np.zeros_like(m), recipe, corruption=corruption) for m in mine]
            for corruption in _CORRUPTIONS.values()
        ]
        masked = sum(len(batch.targets) for share in self._shares for batch in share)
        if sum(gathered(masked, place)) == 0:
            raise SharedUserError(
                "validation: the held-out sequences have no residue to mask; expected longer "
                "ones, or more of them"
            )

    @torch.no_grad()
    def values(
        self, network: nn.Module, device: torch.device, filling: Filling | None = None
    ) -> dict[str, float]:
        """Return the results by name, for `metrics.jsonl`. Collective.

        `validation_loss` is the cross-entropy in nats over the chosen positions,
        `validation_perplexity` its exponential, `validation_accuracy` the share of positions whose
        likeliest token is the true one; `validation_mask_loss` and so on at `<mask>` only.
        """
        # [corruptions, batches, (loss, correct, masked)]
        sums = torch.zeros(len(self._shares), self._batches, 3, dtype=torch.float64, device=device)
        network.eval()
        for share, row in zip(self._shares, sums, strict=True):
            for number, batch in zip(self._mine, share, strict=True):
                losses = masked_losses(network, batch, device, filling)
                row[number, 0], row[number, 1] = losses.loss, losses.correct
                row[number, 2] = len(batch.targets)
        network.train()
        # Only one process has an element that is not zero, so the sum rounds nothing.
        torch.distributed.all_reduce(sums)
        values: dict[str, float] = {}
        for name, batches in zip(_CORRUPTIONS, sums.tolist(), strict=True):
            loss, correct, masked = (math.fsum(column) for column in zip(*batches, strict=True))
            values[f"{name}_loss"] = loss / masked
            values[f"{name}_perplexity"] = perplexity(loss / masked)
            values[f"{name}_accuracy"] = correct / masked
        return values


def _batch_members(
    lengths: NDArray[np.int32], recipe: BatchRecipe, batch_tokens: int
) -> list[NDArray[np.int64]]:
    """Return the sequences of each batch: those whose first token falls into its tokens."""
    tokens = recipe.framed_lengths(lengths)
    batch = (np.cumsum(tokens) - tokens) // batch_tokens
    return np.split(np.arange(len(tokens)), np.flatnonzero(np.diff(batch)) + 1)
