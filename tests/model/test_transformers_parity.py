"""The same weights give the same numbers in transformers and here.

Here may differ from transformers by no more than fair-esm does, or else by what rounding alone
makes of float32: with eager attention those two agree to the last bit on some machines.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EsmTokenizer

from esm1b.alphabet import PAD, RESIDUES, UNK, X, encode
from esm1b.model.encoder import Encoder
from esm1b.model.layers import ContactHead
from esm1b.model.shape import EncoderShape
from tests.model.parity import (
    MASKED_SHARES,
    SHAPES,
    batch,
    compare,
    fair_esm,
    fair_esm_outputs,
    largest_gradient_difference,
    mixed_batch,
    our_outputs,
    relative_difference,
    shared_contact_head,
    shared_encoder,
    transformers_model,
    transformers_outputs,
    without_float32_casts,
)

SMALL = EncoderShape(layers=2, width=16, heads=2, feed_forward=32)

Models = tuple[Encoder, ContactHead, Any]


@pytest.fixture(scope="module", params=list(SHAPES.values()), ids=list(SHAPES))
def single(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Models:
    encoder, head = shared_encoder(request.param), shared_contact_head(request.param)
    return encoder, head, transformers_model(encoder, head, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", params=list(SHAPES.values()), ids=list(SHAPES))
def double(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Models:
    encoder, head = shared_encoder(request.param), shared_contact_head(request.param)
    theirs = transformers_model(encoder, head, tmp_path_factory.mktemp("model"))
    return encoder.double(), head, theirs.double()


@pytest.mark.parametrize("masked_share", MASKED_SHARES)
def test_float32(single: Models, masked_share: float) -> None:
    encoder, head, theirs = single
    packed = mixed_batch(masked_share)
    expected = transformers_outputs(theirs, packed)
    among_peers = compare(fair_esm_outputs(fair_esm(encoder, head), packed), expected)
    difference = compare(our_outputs(encoder, head, packed), expected)
    assert difference.are_within(
        relative=max(among_peers.logits, among_peers.representations, 1e-5),
        absolute=max(among_peers.attentions, among_peers.contacts, 2e-6),
    )


@pytest.mark.parametrize("masked_share", MASKED_SHARES)
def test_float64(double: Models, masked_share: float) -> None:
    encoder, head, theirs = double
    packed = mixed_batch(masked_share)
    with without_float32_casts():
        expected = transformers_outputs(theirs, packed)
    difference = compare(our_outputs(encoder, head, packed), expected)
    assert difference.are_within(relative=1e-12, absolute=1e-12)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 63, 64, 255, 1021, 1022])
def test_every_length(length: int, tmp_path: Path) -> None:
    encoder, head = shared_encoder(SMALL), shared_contact_head(SMALL)
    theirs = transformers_model(encoder, head, tmp_path / "model")
    packed = batch((length,), 0.15)
    expected = transformers_outputs(theirs, packed)
    difference = compare(our_outputs(encoder, head, packed), expected)
    assert difference.are_within(relative=1e-5, absolute=2e-6)


@torch.no_grad()
@pytest.mark.parametrize("masked_share", MASKED_SHARES)
def test_default_attention(masked_share: float, tmp_path: Path) -> None:
    encoder, head = shared_encoder(SMALL), shared_contact_head(SMALL)
    theirs = transformers_model(encoder, head, tmp_path / "model", attention="sdpa")
    packed = mixed_batch(masked_share)
    tokens = packed.to_padded(packed.tokens, PAD)
    logits = theirs(tokens, attention_mask=(tokens != PAD).long()).logits
    expected = logits[packed.sequence_index, packed.offsets]
    assert relative_difference(encoder(packed), expected) <= 1e-5


@pytest.mark.parametrize("masked_share", [0.15, 1.0])
def test_gradients(double: Models, masked_share: float) -> None:
    encoder, _, theirs = double
    with without_float32_casts():
        difference = largest_gradient_difference(encoder, theirs, mixed_batch(masked_share))
    assert difference <= 1e-12


def test_gradients_in_float32(single: Models) -> None:
    encoder, _, theirs = single
    assert largest_gradient_difference(encoder, theirs, mixed_batch(0.15)) <= 1e-5


@torch.no_grad()
def test_leucine_or_isoleucine_is_no_token_there_and_an_unknown_residue_here(
    tmp_path: Path,
) -> None:
    encoder, head = shared_encoder(SMALL), shared_contact_head(SMALL)
    theirs = transformers_model(encoder, head, tmp_path / "model")
    tokenizer = EsmTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer(RESIDUES)["input_ids"] == [0, *encode(RESIDUES), 2]
    tokens = tokenizer("MJK")["input_ids"]
    assert tokens == [0, 20, UNK, 15, 2]
    assert encode("MJK").tolist() == [20, X, 15]
    unknown = theirs(torch.tensor([tokens])).logits
    as_x = theirs(tokenizer("MXK", return_tensors="pt")["input_ids"]).logits
    assert relative_difference(unknown, as_x) > 0.01  # so <unk> is no spelling of X
