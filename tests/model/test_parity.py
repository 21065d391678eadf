"""The same weights give the same numbers in fair-esm, transformers and here."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from esm import Alphabet, ProteinBertModel
from numpy.typing import NDArray
from torch import Tensor
from transformers import EsmForMaskedLM

from esm1b.alphabet import MASK, PAD, encode
from esm1b.model.encoder import Encoder
from esm1b.model.packed import PackedTokens, pack_sequences
from esm1b.model.shape import EncoderShape
from esm1b.model.weights import Provenance, save_model
from tests.conftest import random_encoder

SHAPES = [
    EncoderShape(layers=2, width=32, heads=4, feed_forward=64),
    EncoderShape(layers=3, width=20, heads=1, feed_forward=28),
]
MASKED_SHARES = [0.0, 0.15, 0.5, 0.9]
CPU = torch.device("cpu")


def fair_esm(encoder: Encoder) -> Any:
    """Return fair-esm's model with the weights of `encoder`."""
    shape = encoder.shape
    arguments = Namespace(
        arch="roberta_large",
        layers=shape.layers,
        embed_dim=shape.width,
        ffn_embed_dim=shape.feed_forward,
        attention_heads=shape.heads,
        max_positions=shape.maximum_tokens,
        emb_layer_norm_before=True,
        token_dropout=True,
        logit_bias=True,
    )
    model = ProteinBertModel(arguments, Alphabet.from_architecture("roberta_large"))
    missing, unexpected = model.load_state_dict(encoder.state_dict(), strict=False)
    assert set(missing) == {
        "lm_head.weight",  # tied to the embedding
        "contact_head.regression.weight",
        "contact_head.regression.bias",
    }
    assert unexpected == []
    return model.eval()


def transformers_model(encoder: Encoder, directory: Path) -> Any:
    save_model(encoder, directory, Provenance(rare_residues="keep"))
    loader: Any = EsmForMaskedLM
    return loader.from_pretrained(directory, attn_implementation="eager")


def packed_batch(masked_share: float) -> PackedTokens:
    """Return sequences of 1 to 60 residues, the rare ones among them, partly masked."""
    generator = np.random.default_rng(0)
    sequences = [encode("M"), encode("XBUZO"), encode("MKTVRQGJ")] + [
        generator.integers(4, 29, size=length).astype(np.uint8) for length in (17, 41, 60, 60)
    ]
    packed = pack_sequences(sequences, CPU)
    is_residue = (packed.tokens >= 4) & (packed.tokens <= 28)
    chosen = torch.from_numpy(generator.random(len(packed.tokens)) < masked_share)
    tokens = packed.tokens.masked_fill(is_residue & chosen, MASK)
    return PackedTokens.from_tokens(tokens, packed.lengths)


def padded(packed: PackedTokens) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(
        list(torch.split(packed.tokens, list(packed.lengths))), batch_first=True, padding_value=PAD
    )


def flat(batched: Tensor, packed: PackedTokens) -> Tensor:
    """Return the rows `[total_tokens, ...]` of a padded `[batch, longest, ...]`."""
    return torch.cat([row[:n] for row, n in zip(batched, packed.lengths, strict=True)])


def maps_by_sequence(packed: PackedTokens, encoder: Encoder) -> list[NDArray[np.float32]]:
    """Return `[layers, heads, length, length]` for each sequence, each run in company."""
    encoded = encoder.encode(packed, attentions=True)
    starts = np.concatenate(([0], np.cumsum(packed.lengths)))
    result = []
    for sequence, length in enumerate(packed.lengths):
        place = int(encoded.plan.to_flat[starts[sequence]])
        for number, group in enumerate(encoded.plan.groups):
            if group.start <= place < group.start + group.sequences * group.length:
                row = (place - group.start) // group.length
                layers = [maps[number][row, :, :length, :length] for maps in encoded.attentions]
                result.append(torch.stack(layers).numpy())
    return result


@torch.no_grad()
@pytest.mark.parametrize("masked_share", MASKED_SHARES)
@pytest.mark.parametrize("shape", SHAPES)
def test_parity_with_fair_esm(shape: EncoderShape, masked_share: float) -> None:
    encoder = random_encoder(shape)
    packed = packed_batch(masked_share)
    layers = range(shape.layers + 1)
    theirs = fair_esm(encoder)(padded(packed), repr_layers=layers, need_head_weights=True)
    ours = encoder.encode(packed, representation_layers=layers)
    logits = encoder(packed)
    expected = flat(theirs["logits"], packed)
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()
    for layer in layers:
        representation = flat(theirs["representations"][layer], packed)
        difference = (ours.representations[layer] - representation).abs().max()
        assert difference <= 1e-5 * representation.abs().max()
    for sequence, maps in enumerate(maps_by_sequence(packed, encoder)):
        length = packed.lengths[sequence]
        np.testing.assert_allclose(
            maps, theirs["attentions"][sequence, :, :, :length, :length], rtol=0, atol=1e-6
        )


@torch.no_grad()
@pytest.mark.parametrize("masked_share", MASKED_SHARES)
def test_float64_parity_with_fair_esm(masked_share: float) -> None:
    encoder = random_encoder(SHAPES[0]).double()
    packed = packed_batch(masked_share)
    expected = flat(fair_esm(encoder).double()(padded(packed))["logits"], packed)
    # fair-esm computes the share of masked tokens in float32.
    bound = 1e-12 if masked_share == 0 else 1e-6
    assert (encoder(packed) - expected).abs().max() <= bound * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("masked_share", MASKED_SHARES)
@pytest.mark.parametrize("shape", SHAPES)
def test_parity_with_transformers(shape: EncoderShape, masked_share: float, tmp_path: Path) -> None:
    encoder = random_encoder(shape)
    packed = packed_batch(masked_share)
    theirs = transformers_model(encoder, tmp_path / "model")
    tokens = padded(packed)
    result = theirs(
        tokens, attention_mask=tokens != PAD, output_hidden_states=True, output_attentions=True
    )
    expected = flat(result.logits, packed)
    assert (encoder(packed) - expected).abs().max() <= 8e-5 * expected.abs().max()
    ours = encoder.encode(packed, representation_layers=range(shape.layers + 1))
    for layer, hidden in enumerate(result.hidden_states):
        representation = flat(hidden, packed)
        difference = (ours.representations[layer] - representation).abs().max()
        assert difference <= 8e-5 * representation.abs().max()
    for sequence, maps in enumerate(maps_by_sequence(packed, encoder)):
        length = packed.lengths[sequence]
        for layer, attentions in enumerate(result.attentions):
            np.testing.assert_allclose(
                maps[layer], attentions[sequence, :, :length, :length], rtol=0, atol=1e-5
            )


@torch.no_grad()
def test_parity_at_the_longest_sequence() -> None:
    encoder = random_encoder(SHAPES[0])
    residues = np.random.default_rng(1).integers(4, 24, size=1022).astype(np.uint8)
    packed = pack_sequences([residues, residues[:3]], CPU)
    expected = flat(fair_esm(encoder)(padded(packed))["logits"], packed)
    assert (encoder(packed) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_gradients_equal_those_of_fair_esm() -> None:
    encoder = random_encoder(SHAPES[0]).double()
    theirs = fair_esm(encoder).double()
    packed = packed_batch(0.15)
    positions = (packed.tokens == MASK).nonzero()[:, 0]
    targets = torch.arange(len(positions)) % 20 + 4
    cross_entropy = torch.nn.functional.cross_entropy
    torch.autograd.backward(cross_entropy(encoder(packed, positions), targets))
    logits = flat(theirs(padded(packed))["logits"], packed)[positions]
    torch.autograd.backward(cross_entropy(logits, targets))
    expected = dict(theirs.named_parameters())
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None
        gradient = expected[name].grad.clone()
        if name == "embed_tokens.weight":
            gradient[MASK] = 0.0  # fair-esm zeroes the row on loading, not in training
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-6, atol=1e-8)
