from pathlib import Path

import numpy as np
import pytest
import torch

from esm1b.alphabet import MASK, encode
from esm1b.batches.stream import MicroBatch
from esm1b.model.inference import Model, load_model, untrained_model
from esm1b.model.packed import pack_sequences
from esm1b.model.shape import EncoderShape
from esm1b.model.weights import Provenance, save_model
from tests.conftest import random_encoder

SHAPE = EncoderShape(layers=2, width=16, heads=4, feed_forward=24, maximum_tokens=64)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_model(random_encoder(SHAPE), tmp_path / "model", Provenance(rare_residues="replace"))
    return tmp_path / "model"


def test_attentions_without_special_tokens(directory: Path) -> None:
    model = load_model(directory)
    residues = encode("MKTVRQG")
    maps = model.attentions(residues)
    assert maps.shape == (8, 7, 7)
    assert maps.dtype == np.float32
    packed = pack_sequences([residues], torch.device("cpu"))
    with torch.no_grad():
        layers = model.encoder.encode(packed, attentions=True).attentions
    # channel = layer * heads + head
    np.testing.assert_array_equal(maps[5], layers[1][0][0, 1, 1:-1, 1:-1])
    assert (maps.sum(-1) < 1).all()


def test_representations_of_many_are_those_of_one(directory: Path) -> None:
    model = load_model(directory)
    sequences = [encode(sequence) for sequence in ("MKTVRQG", "L", "MKTVRQGMKTVRQGMKT", "AC")]
    for layer in (-1, 0, 1, 2):
        together = model.representations(sequences, layer=layer)
        assert [part.shape for part in together] == [(7, 16), (1, 16), (17, 16), (2, 16)]
        for residues, part in zip(sequences, together, strict=True):
            alone = model.representations([residues], layer=layer)[0]
            np.testing.assert_allclose(part, alone, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(
        model.representations(sequences)[0], model.representations(sequences, layer=2)[0]
    )


def test_rare_residues_are_merged_as_in_training(directory: Path) -> None:
    model = load_model(directory)
    assert model.rare_residues == "replace"
    np.testing.assert_array_equal(
        model.attentions(encode("MKUBZOL")), model.attentions(encode("MKXXXXL"))
    )
    np.testing.assert_array_equal(
        model.representations([encode("MKU")])[0], model.representations([encode("MKX")])[0]
    )


def test_log_probabilities_at_masked_positions(directory: Path) -> None:
    model = load_model(directory)
    batch = MicroBatch(
        tokens=np.array([0, 4, MASK, 6, 2, 0, MASK, 2]),
        lengths=np.array([5, 3]),
        masked_positions=np.array([2, 6]),
        targets=np.array([5, 7]),
    )
    log_probabilities = model.masked_log_probabilities(batch)
    assert log_probabilities.shape == (2, 33)
    assert log_probabilities.dtype == np.float64
    np.testing.assert_allclose(np.exp(log_probabilities).sum(1), [1, 1], rtol=1e-12)


def test_untrained_models_follow_their_seed() -> None:
    residues = encode("MKTVRQG")
    like = Model(
        encoder=random_encoder(SHAPE),
        rare_residues="keep",
        append_eos=False,
        longest_sequence=9,
        device=torch.device("cpu"),
    )
    first, same, other = (untrained_model(like, seed) for seed in (0, 0, 1))
    assert (first.rare_residues, first.append_eos, first.longest_sequence) == ("keep", False, 9)
    np.testing.assert_array_equal(first.attentions(residues), same.attentions(residues))
    assert not np.array_equal(first.attentions(residues), other.attentions(residues))
    assert not first.encoder.training
