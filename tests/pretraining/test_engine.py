import numpy as np
import pytest
import torch

from esm1b.batches.stream import MicroBatch
from esm1b.config import PretrainingConfig
from esm1b.errors import UserError
from esm1b.model.encoder import Encoder
from esm1b.model.shape import EncoderShape
from esm1b.pretraining.engine import Engine, Filling, Hardware, masked_losses
from tests.conftest import random_encoder

CPU = torch.device("cpu")
SHAPE = EncoderShape(layers=2, width=16, heads=4, feed_forward=24, maximum_tokens=64)


def test_a_filling_holds_a_sequence_more_than_the_share() -> None:
    filling = Filling.of(micro_batch_tokens=32768, maximum_tokens=1024)
    assert filling == Filling(capacity=33792, sequences=1056, longest=1024)
    assert Filling.of(micro_batch_tokens=1, maximum_tokens=64).capacity == 128


def test_filling_changes_no_loss() -> None:
    encoder = random_encoder(SHAPE)
    batch = MicroBatch(
        tokens=np.array([0, 4, 32, 6, 2, 0, 32, 2]),
        lengths=np.array([5, 3]),
        masked_positions=np.array([2, 6]),
        targets=np.array([5, 7]),
    )
    plain = masked_losses(encoder, batch, CPU)
    filled = masked_losses(encoder, batch, CPU, Filling(capacity=128, sequences=4, longest=64))
    torch.testing.assert_close(filled.loss, plain.loss, rtol=1e-6, atol=1e-6)
    assert int(filled.correct) == int(plain.correct)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_layers_are_not_compiled_on_cpu(precision: str) -> None:
    recipe = PretrainingConfig.model_validate({"precision": precision})
    with pytest.raises(UserError, match=f"--compile: on cpu in {precision}, where attention is"):
        Engine(Encoder(SHAPE), recipe, Hardware(compile=True), CPU)
