from pathlib import Path

import pytest

from esm1b.model.encoder import Encoder
from esm1b.model.shape import EncoderShape
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model
from tests.conftest import random_encoder

SHAPE = EncoderShape(layers=2, width=16, heads=4, feed_forward=24, maximum_tokens=64)


@pytest.fixture
def encoder() -> Encoder:
    return random_encoder(SHAPE)


@pytest.fixture
def directory(encoder: Encoder, tmp_path: Path) -> Path:
    save_model(encoder, tmp_path / "model", Provenance(rare_residues="keep"))
    return tmp_path / "model"
