import numpy as np
import torch

from esm1b.batches.micro_batch import MicroBatch
from esm1b.batches.packing import Filling
from esm1b.model.shape import EncoderShape
from esm1b.pretraining.losses import masked_losses
from tests.conftest import random_encoder
from tests.model.padded import padded_logits

CPU = torch.device("cpu")
SHAPE = EncoderShape(layers=2, width=16, heads=4, feed_forward=24, maximum_tokens=64)
BATCH = MicroBatch(
    tokens=np.array([0, 4, 32, 6, 2, 0, 32, 2]),
    lengths=np.array([5, 3]),
    masked_positions=np.array([2, 6]),
    targets=np.array([5, 7]),
)


def test_sums_are_over_the_masked_positions() -> None:
    encoder = random_encoder(SHAPE)
    losses = masked_losses(encoder, BATCH, CPU)
    padded = torch.tensor([[0, 4, 32, 6, 2], [0, 32, 2, 1, 1]])
    logits = padded_logits(encoder, padded)[[0, 1], [2, 1]]
    expected = -logits.log_softmax(-1)[[0, 1], [5, 7]].sum()
    torch.testing.assert_close(losses.loss, expected, rtol=1e-6, atol=0)
    assert int(losses.correct) == int((logits.argmax(-1) == torch.tensor([5, 7])).sum())


def test_filling_changes_no_loss() -> None:
    encoder = random_encoder(SHAPE)
    plain = masked_losses(encoder, BATCH, CPU)
    filled = masked_losses(encoder, BATCH, CPU, Filling(capacity=128, sequences=4, longest=64))
    torch.testing.assert_close(filled.loss, plain.loss, rtol=1e-6, atol=1e-6)
    assert int(filled.correct) == int(plain.correct)


def test_a_batch_without_masked_positions_adds_nothing() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    empty = MicroBatch(
        tokens=np.array([0, 2]),
        lengths=np.array([2]),
        masked_positions=nothing,
        targets=nothing,
    )
    encoder = random_encoder(SHAPE)
    losses = masked_losses(encoder, empty, CPU)
    assert losses.loss.item() == 0.0
    assert int(losses.correct) == 0
    torch.autograd.backward(losses.loss)
    assert all(p.grad is None or not p.grad.any() for p in encoder.parameters())
