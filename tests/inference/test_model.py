from pathlib import Path

import numpy as np
import pytest
import torch

import esm1b
from esm1b.alphabet import MASK, encode
from esm1b.errors import UserError
from esm1b.inference.model import Model, load_model, untrained_model
from esm1b.model.encoder import Encoder
from esm1b.model.layers import ContactHead
from esm1b.model.packed import pack_sequences
from esm1b.model.shape import EncoderShape
from esm1b.weights.model_directory import ModelDirectory
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model
from tests.conftest import random_encoder

SHAPE = EncoderShape(layers=2, width=16, heads=4, feed_forward=24, maximum_tokens=64)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_model(random_encoder(SHAPE), tmp_path / "model", Provenance(rare_residues="replace"))
    return tmp_path / "model"


def test_what_is_no_sequence_is_told(directory: Path) -> None:
    model = load_model(directory)
    for sequence, kind in ((b"MKT", "bytes"), ([20, 15], "list"), (None, "NoneType")):
        with pytest.raises(UserError) as caught:
            model.tokens(sequence)  # type: ignore[arg-type]
        assert str(caught.value) == (
            f"sequence: {kind}; expected text such as MKT<mask>V, or uint8 tokens"
        )


def test_attentions_without_special_tokens(directory: Path) -> None:
    model = load_model(directory)
    residues = encode("MKTVRQG")
    maps = model.attentions(residues)
    assert maps.shape == (8, 7, 7)
    assert maps.dtype == np.float32
    packed = pack_sequences([residues], torch.device("cpu"))
    with torch.no_grad():
        layers = list(model.network.attention_maps(packed))
    # channel = layer * heads + head
    np.testing.assert_array_equal(maps[5], layers[1][0][1, 1:-1, 1:-1])
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
    log_probabilities = model.log_probabilities(
        np.array([0, 4, MASK, 6, 2, 0, MASK, 2]), np.array([5, 3]), np.array([2, 6])
    )
    assert log_probabilities.shape == (2, 33)
    assert log_probabilities.dtype == np.float64
    np.testing.assert_allclose(np.exp(log_probabilities).sum(1), [1, 1], rtol=1e-12)


def test_untrained_models_follow_their_seed() -> None:
    residues = encode("MKTVRQG")
    like = Model(
        network=random_encoder(SHAPE),
        rare_residues="keep",
        append_eos=False,
        longest_sequence=9,
        contact_head=None,
        directory=ModelDirectory(Path("model")),
    )
    first, same, other = (untrained_model(like, seed) for seed in (0, 0, 1))
    assert (first.rare_residues, first.append_eos, first.longest_sequence) == ("keep", False, 9)
    np.testing.assert_array_equal(first.attentions(residues), same.attentions(residues))
    assert not np.array_equal(first.attentions(residues), other.attentions(residues))
    assert isinstance(first.network, Encoder)
    assert not first.network.training


def test_sequences_as_people_write_them(directory: Path) -> None:
    model = load_model(directory)
    assert model.tokens("mkt <mask>\nv").tolist() == [20, 15, 11, 32, 7]
    with pytest.raises(UserError, match="'1' at position 3; expected one of the residue symbols"):
        model.tokens("MK1")
    with pytest.raises(UserError, match="is empty"):
        model.tokens(" ")
    np.testing.assert_array_equal(model.logits(["MK V"])[0], model.logits([encode("MKV")])[0])


def test_logits_are_the_encoders(directory: Path) -> None:
    model = load_model(directory)
    logits = model.logits(["MK<mask>V", "A"])
    assert [part.shape for part in logits] == [(4, 33), (1, 33)]
    packed = pack_sequences([model.tokens("MK<mask>V")], torch.device("cpu"))
    with torch.no_grad():
        expected = ModelDirectory(directory).read().encoder(packed)[1:-1]
    np.testing.assert_allclose(logits[0], expected, rtol=0, atol=1e-5)


def test_layers_together_are_layers_alone(directory: Path) -> None:
    model = load_model(directory)
    together = model.representations(["MKTV", "AC"], layer=[2, 0, -1])
    assert [part.shape for part in together] == [(3, 4, 16), (3, 2, 16)]
    for place, layer in enumerate((2, 0, -1)):
        alone = model.representations(["MKTV", "AC"], layer=layer)
        np.testing.assert_array_equal(together[1][place], alone[1])
    with pytest.raises(UserError, match=r"layer 3: the model has layers 0 .* to 2; expected one"):
        model.representations(["MKTV"], layer=3)


def test_long_sequences(directory: Path) -> None:
    model = load_model(directory)
    assert model.longest_sequence == 62
    long = "MKTVRQGERL" * 9
    with pytest.raises(UserError, match="sequence 2: 90 residues; expected at most 62"):
        model.representations(["MK", long])
    cut = model.representations([long], long_sequences="truncate")[0]
    np.testing.assert_array_equal(cut, model.representations([long[:62]])[0])
    seen = model.representations(["MK", long], long_sequences="windows")[1]
    assert seen.shape == (90, 16)
    # Two windows, 0 to 62 and 28 to 90, that meet at 45.
    np.testing.assert_allclose(
        seen[:45], model.representations([long[:62]])[0][:45], rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(
        seen[45:], model.representations([long[28:]])[0][17:], rtol=0, atol=1e-5
    )


def test_contacts_of_a_fitted_head(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model: the contact head is not fitted; expected"):
        load_model(directory).contacts("MKTV")
    head = ContactHead(coefficients=torch.linspace(-40, 40, 8), intercept=torch.tensor(-0.5))
    save_model(random_encoder(SHAPE), tmp_path / "fitted", Provenance(), contact_head=head)
    model = load_model(tmp_path / "fitted")
    maps = model.attentions("MKTVRQG")
    logits = np.full((7, 7), -0.5)
    for coefficient, weights in zip(np.linspace(-40, 40, 8), maps, strict=True):
        symmetric = weights + weights.T
        expected = np.outer(symmetric.sum(0), symmetric.sum(0)) / symmetric.sum()
        logits += coefficient * (symmetric - expected)
    contacts = model.contacts("MKTVRQG")
    np.testing.assert_allclose(contacts, 1 / (1 + np.exp(-logits)), rtol=0, atol=1e-5)
    np.testing.assert_allclose(contacts, contacts.T, rtol=0, atol=1e-6)


def test_contacts_through_windows(tmp_path: Path) -> None:
    head = ContactHead(coefficients=torch.linspace(-40, 40, 8), intercept=torch.tensor(-0.5))
    save_model(random_encoder(SHAPE), tmp_path / "fitted", Provenance(), contact_head=head)
    model = load_model(tmp_path / "fitted")
    long = "MKTVRQGERL" * 9
    seen = model.contacts(long, long_sequences="windows")
    first, second = model.contacts(long[:62]), model.contacts(long[28:])
    assert seen.shape == (90, 90)
    # 0 and 61 are in the first window only, 28 and 89 in the second only, 27 and 62 in neither.
    assert seen[0, 61] == pytest.approx(first[0, 61], abs=1e-5)
    assert seen[28, 89] == pytest.approx(second[0, 61], abs=1e-5)
    assert np.isnan(seen[27, 62])
    # 30 and 40: 22 from the end of the first window, 3 from the start of the second.
    assert seen[30, 40] == pytest.approx(first[30, 40], abs=1e-5)
    assert seen[50, 58] == pytest.approx(second[22, 30], abs=1e-5)
    assert np.isnan(seen).sum() == 2 * 28 * 28
    assert model.contacts(long, long_sequences="truncate").shape == (62, 62)


def test_load_is_there_for_everybody(directory: Path) -> None:
    model = esm1b.load(directory, device="cpu", precision="bf16")
    values = model.representations(["MKTV"])[0]
    assert values.dtype == np.float32
    expected = load_model(directory).representations(["MKTV"])[0]
    assert 0 < np.abs(values - expected).max() < 0.1 * np.abs(expected).max()


def test_what_are_no_sequences(directory: Path, tmp_path: Path) -> None:
    model = load_model(directory)
    with pytest.raises(UserError, match="sequences: one sequence; expected several"):
        model.logits("MKT")
    for tokens in (np.array([40, 50], np.uint8), np.array([1, 5], np.uint8), np.array([4, 5])):
        with pytest.raises(
            UserError, match="has tokens that are not residues; expected uint8 of 4"
        ):
            model.logits([tokens])
    (tmp_path / "file.pt").touch()
    with pytest.raises(UserError, match=r"is a file; expected a model directory, which esm1b imp"):
        load_model(tmp_path / "file.pt")
