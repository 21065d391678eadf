"""ESM-2 directories: as they were released, and as `transformers` saves them today."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import EsmConfig, EsmForMaskedLM

from esm1b.alphabet import MASK, PAD, encode
from esm1b.errors import UserError
from esm1b.inference.model import load_model
from esm1b.model.rotary import rotary_frequencies
from esm1b.model.shape import EncoderShape
from esm1b.weights.model_directory import ModelDirectory
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model

SHAPE = EncoderShape(
    layers=3,
    width=24,
    heads=2,
    feed_forward=40,
    maximum_tokens=64,
    layer_norm_before=False,
    positions="rotary-fp16",
)
WEIGHTS = "model.safetensors"
FREQUENCIES = "esm.encoder.layer.{}.attention.self.rotary_embeddings.inv_freq"
SEQUENCE = "MKTVRQGERLKSIVRILERSKEPVSGAQLAEELSVSRQVIVQDIAYLRSLGYNIVATPRGYVLAGG"[:62]


def hugging_face(directory: Path, **options: Any) -> Any:
    loader: Any = EsmForMaskedLM  # its annotations do not know keywords such as this
    return loader.from_pretrained(directory, **options)


@pytest.fixture(scope="module")
def network() -> Any:
    """Return a tiny ESM-2 of transformers whose parameters are random and large."""
    config = EsmConfig(
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=40,
        max_position_embeddings=66,
        position_embedding_type="rotary",
        token_dropout=True,
        emb_layer_norm_before=False,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model: Any = EsmForMaskedLM(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1.0)
        model.esm.embeddings.word_embeddings.weight[PAD] = 0.0
        model.esm.contact_head.regression.weight *= 20  # else every pair is at one half
    return model.eval()


@pytest.fixture
def released(network: Any, tmp_path: Path) -> Path:
    """Return a directory with the tensors and names of the released ones."""
    directory = tmp_path / "released"
    network.config.save_pretrained(directory)
    tensors = {
        name: tensor.clone()
        for name, tensor in network.state_dict().items()
        if name != "lm_head.decoder.weight" and "inv_freq" not in name
    }
    for layer in range(3):
        tensors[FREQUENCIES.format(layer)] = rotary_frequencies("rotary-fp16", 12)
    tensors["esm.embeddings.position_ids"] = torch.arange(66)[None]
    tensors["esm.embeddings.position_embeddings.weight"] = torch.ones(66, 24)
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    return directory


@torch.no_grad()
def test_a_released_directory(released: Path) -> None:
    model = load_model(released, device="cpu")
    assert model.shape == SHAPE
    assert (model.rare_residues, model.append_eos) == ("keep", True)
    assert model.longest_sequence == 62  # of 66 rows, as 1,022 of the released 1,026
    theirs = hugging_face(released, attn_implementation="eager")
    rows = theirs.esm.embeddings.word_embeddings.weight
    assert rows[MASK].any()
    assert torch.equal(model.network.embed_tokens.weight, rows)
    tokens = torch.tensor([[0, *encode(SEQUENCE), 2]])
    output = theirs(tokens, output_hidden_states=True)
    expected = {
        "logits": output.logits[0, 1:-1],
        "representations": output.hidden_states[-1][0, 1:-1],
        "contacts": theirs.predict_contacts(tokens, torch.ones_like(tokens))[0],
    }
    found = {
        "logits": model.logits([SEQUENCE])[0],
        "representations": model.representations([SEQUENCE])[0],
        "contacts": model.contacts(SEQUENCE),
    }
    for name, values in expected.items():
        torch.testing.assert_close(torch.from_numpy(found[name]), values, rtol=1e-5, atol=1e-5)
        assert values.std() > 0.01


def test_its_round_trip_is_bitwise(released: Path, tmp_path: Path) -> None:
    first = ModelDirectory(released).read()
    save_model(first.encoder, tmp_path / "ours", Provenance(), contact_head=first.contact_head)
    before, after = load_file(released / WEIGHTS), load_file(tmp_path / "ours" / WEIGHTS)
    unused = {"esm.embeddings.position_ids", "esm.embeddings.position_embeddings.weight"}
    assert before.keys() - after.keys() == unused
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]), name
    ours, theirs = (
        json.loads((path / "config.json").read_text()) for path in (tmp_path / "ours", released)
    )
    for key in ("max_position_embeddings", "position_embedding_type", "emb_layer_norm_before"):
        assert ours[key] == theirs[key]
    loaded, loading = hugging_face(tmp_path / "ours", output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not loading[kind]
    frequencies = loaded.esm.rotary_embeddings.inv_freq
    assert torch.equal(frequencies, rotary_frequencies("rotary-fp16", 12))


@torch.no_grad()
def test_a_directory_that_transformers_saved(network: Any, released: Path, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path / "new")
    names = load_file(tmp_path / "new" / WEIGHTS).keys()
    # of a network that it initialised: names that no released directory has
    assert FREQUENCIES.format("*") in names
    assert "esm.encoder.layer.0.LayerNorm.beta" in names
    encoder = ModelDirectory(tmp_path / "new").read().encoder
    assert encoder.shape.positions == "rotary"
    expected = ModelDirectory(released).read().encoder.state_dict()
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    hugging_face(released).save_pretrained(tmp_path / "again")
    assert ModelDirectory(tmp_path / "again").read().encoder.shape == SHAPE
    hugging_face(released).bfloat16().save_pretrained(tmp_path / "rounded")
    rounded = ModelDirectory(tmp_path / "rounded").read().encoder
    assert rounded.shape.positions == "rotary-bf16"
    assert rounded.rotary is not None
    assert torch.equal(rounded.rotary.frequencies, rotary_frequencies("rotary-bf16", 12))


def test_frequencies_that_are_missing_or_others(released: Path) -> None:
    tensors = load_file(released / WEIGHTS)
    tensors[FREQUENCIES.format(1)] *= 0.5
    save_file(tensors, released / WEIGHTS)
    with pytest.raises(UserError, match=r"layer\.1\..* as in all layers, 10,000\^\(-2 i / 12\)"):
        ModelDirectory(released).read()
    for layer in range(3):
        del tensors[FREQUENCIES.format(layer)]
    save_file(tensors, released / WEIGHTS)
    assert ModelDirectory(released).read().encoder.shape.positions == "rotary"


def test_the_first_norm_of_an_esm2_may_be_unsaid(released: Path) -> None:
    config = json.loads((released / "config.json").read_text())
    del config["emb_layer_norm_before"], config["rope_theta"]
    (released / "config.json").write_text(json.dumps(config))
    assert ModelDirectory(released).read().encoder.shape == SHAPE


@torch.no_grad()
def test_bf16_keeps_the_frequencies_exact(released: Path) -> None:
    precise, rough = (load_model(released, precision=precision) for precision in ("fp32", "bf16"))
    assert {parameter.dtype for parameter in rough.network.parameters()} == {torch.bfloat16}
    assert [buffer.dtype for buffer in rough.network.buffers()] == [torch.float32]
    (expected,), (logits,) = (model.logits([SEQUENCE]) for model in (precise, rough))
    # 8 bits of fraction in each of three layers
    assert 0 < abs(logits - expected).max() < 0.05 * abs(expected).max()
