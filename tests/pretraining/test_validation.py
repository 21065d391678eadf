import math
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.nn import functional

from esm1b.alphabet import MASK, PAD
from esm1b.batches.masking import VALIDATION_SEED, Corruption
from esm1b.batches.micro_batch import BatchRecipe, MicroBatch, make_batch
from esm1b.corpus.tokens.dataset import open_tokens
from esm1b.errors import UserError
from esm1b.model.encoder import Encoder
from esm1b.model.shape import EncoderShape
from esm1b.pretraining import validation
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.validation import Validation
from tests.conftest import random_encoder
from tests.model.padded import padded_logits
from tests.pretraining.worlds import gloo, in_world

CPU = torch.device("cpu")
SHAPE = EncoderShape(layers=2, width=16, heads=4, feed_forward=24, maximum_tokens=102)
SEQUENCES = 30
SMALL_BATCHES = 300
RECIPE = BatchRecipe(crop_residues=100, append_eos=True, rare_residues="replace", seed=5)
NAMES = [
    *("validation_loss", "validation_perplexity", "validation_accuracy"),
    *("validation_mask_loss", "validation_mask_perplexity", "validation_mask_accuracy"),
]


def values(place: Place, tokens: Path, recipe: BatchRecipe = RECIPE) -> dict[str, float]:
    dataset = open_tokens(tokens, "validation")
    with gloo(place):
        found = Validation(
            dataset, recipe, sequences=SEQUENCES, place=place, batch_tokens=SMALL_BATCHES
        )
        network = random_encoder(SHAPE).train()
        result = found.values(network, CPU)
        assert network.training
    return result


def each_sequence_alone(encoder: Encoder, batch: MicroBatch) -> tuple[float, int]:
    """Return the sums over a batch whose sequences are padded, in float64."""
    tokens = torch.full((len(batch.lengths), int(batch.lengths.max())), PAD)
    ends = np.cumsum(batch.lengths)
    for row, (end, length) in enumerate(zip(ends, batch.lengths, strict=True)):
        tokens[row, :length] = torch.from_numpy(batch.tokens[end - length : end])
    rows = np.searchsorted(ends, batch.masked_positions, side="right")
    columns = batch.masked_positions - (ends - batch.lengths)[rows]
    with torch.no_grad():
        logits = padded_logits(encoder, tokens)[rows, columns].double()
    targets = torch.from_numpy(batch.targets)
    loss = functional.cross_entropy(logits, targets, reduction="sum").item()
    return loss, int((logits.argmax(-1) == targets).sum())


@pytest.fixture(scope="module")
def alone(tokens_directory: Path) -> dict[str, float]:
    return values(Place(), tokens_directory)


def test_both_ways_of_masking(alone: dict[str, float], tokens_directory: Path) -> None:
    dataset = open_tokens(tokens_directory, "validation")
    chosen = np.arange(SEQUENCES)
    recipe = BatchRecipe(
        crop_residues=100, append_eos=True, rare_residues="replace", seed=VALIDATION_SEED
    )
    assert sorted(alone) == sorted(NAMES)
    ways: list[tuple[str, Corruption]] = [
        ("validation", "training"),
        ("validation_mask", "mask-only"),
    ]
    for prefix, corruption in ways:
        batch = make_batch(dataset, chosen, 0 * chosen, recipe, corruption=corruption)
        share = np.mean(batch.tokens[batch.masked_positions] == MASK)
        assert (share == 1) == (prefix == "validation_mask")
        loss, correct = each_sequence_alone(random_encoder(SHAPE), batch)
        mean = loss / len(batch.targets)
        assert alone[f"{prefix}_loss"] == pytest.approx(mean, rel=1e-6)
        assert alone[f"{prefix}_perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)
        assert alone[f"{prefix}_accuracy"] == correct / len(batch.targets)


def test_any_number_of_processes_gets_the_same(
    alone: dict[str, float], tokens_directory: Path
) -> None:
    assert in_world(3, values, tokens_directory) == [alone] * 3


def test_batches_follow_from_the_lengths() -> None:
    lengths = np.array([98, 120, 50, 98, 1, 298, 5], dtype=np.int32)
    # tokens 100, 102, 52, 100, 3, 102, 7 begin at 0, 100, 202, 254, 354, 357, 459
    members = validation._batch_members(lengths, RECIPE, 200)
    assert [batch.tolist() for batch in members] == [[0, 1], [2, 3, 4, 5], [6]]


def nothing_masked(*arguments: object, **options: object) -> MicroBatch:
    nothing = np.zeros(0, dtype=np.int64)
    return MicroBatch(
        tokens=np.array([0, 2]), lengths=np.array([2]), masked_positions=nothing, targets=nothing
    )


def test_nothing_to_mask(tokens_directory: Path) -> None:
    with patch.object(validation, "make_batch", nothing_masked), pytest.raises(UserError) as caught:
        values(Place(), tokens_directory)
    assert str(caught.value) == (
        "validation: the held-out sequences have no residue to mask; expected longer ones, or more "
        "of them"
    )
