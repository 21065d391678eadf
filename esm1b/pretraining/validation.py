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
from esm1b.pretraining.losses import masked_losses

# What the results are called, and what stands at the chosen positions.
_CORRUPTIONS: Final[dict[str, Corruption]] = {
    "validation": "training",
    "validation_mask": "mask-only",
}
# Tokens of a batch. Whatever a GPU holds in training, without gradients it holds these.
BATCH_TOKENS: Final = 8192
# A network that diverged has no perplexity that a float could hold.
_LARGEST_EXPONENT: Final = 700.0


class Validation:
    """The first held-out sequences, masked at the same positions in two ways.

    Shards hold random shares of the corpus, so the first sequences are a fair sample. For
    `validation` the chosen positions are corrupted as in training (80 % `<mask>`, 10 % another
    amino acid, 10 % as they were), for `validation_mask` all of them are `<mask>`.

    The result is the same for any number of processes, ZeRO stage and micro-batch, bitwise for
    bitwise the same weights: batches hold the same sequences in the same order in all layouts, the
    sum over a batch is taken by one process, and the sums of all batches are added in float64 and
    rounded once. It may differ in rounding (1e-6 relative in float32) where a batch itself is
    computed otherwise: on another device, with other threads, or filled up for a compiled network.

    Args:
        dataset: the held-out tokens.
        recipe: of the training batches; the masks have a seed of their own.
        sequences: how many to use; all where there are fewer.
        place: of this process, which computes every so-many-th batch.
        batch_tokens: of a batch, about.

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
        # Every process runs as many batches, since a network that is divided among them (ZeRO 3)
        # runs in all or in none; the last ones may have no sequences.
        self._batches = -(-len(members) // place.processes) * place.processes
        members += [np.zeros(0, dtype=np.int64)] * (self._batches - len(members))
        self._mine = range(place.rank, self._batches, place.processes)
        self._shares = [
            [
                make_batch(dataset, chosen, np.zeros_like(chosen), recipe, corruption=corruption)
                for chosen in (members[number] for number in self._mine)
            ]
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
                row[number, 0] = losses.loss
                row[number, 1] = losses.correct
                row[number, 2] = len(batch.targets)
        network.train()
        # Each element is of one process, and zero in all others: nothing is rounded.
        torch.distributed.all_reduce(sums)
        values: dict[str, float] = {}
        for name, batches in zip(_CORRUPTIONS, sums.tolist(), strict=True):
            loss, correct, masked = (math.fsum(column) for column in zip(*batches, strict=True))
            values[f"{name}_loss"] = loss / masked
            values[f"{name}_perplexity"] = math.exp(min(loss / masked, _LARGEST_EXPONENT))
            values[f"{name}_accuracy"] = correct / masked
        return values


def _batch_members(
    lengths: NDArray[np.int32], recipe: BatchRecipe, batch_tokens: int
) -> list[NDArray[np.int64]]:
    """Return the sequences of each batch: those whose first token falls into its tokens."""
    tokens = np.minimum(lengths.astype(np.int64), recipe.crop_residues) + recipe.special_tokens
    batch = (np.cumsum(tokens) - tokens) // batch_tokens
    first_of_batch = np.flatnonzero(np.diff(batch)) + 1
    return np.split(np.arange(len(tokens)), first_of_batch)
