from pathlib import Path

import pytest
import torch

from esm1b.alphabet import RareResidues
from esm1b.model.encoder import Encoder
from esm1b.model.layers import ContactHead
from esm1b.model.shape import EncoderShape
from esm1b.weights.provenance import Provenance
from esm1b.weights.state import TrainedModel, verify_copy
from tests.conftest import random_encoder

SHAPE = EncoderShape(layers=1, width=8, heads=2, feed_forward=8, maximum_tokens=16)
HEAD = ContactHead(coefficients=torch.tensor([0.5, 0.0]), intercept=torch.tensor(-1.0))


def verify(
    copy: Encoder,
    encoder: Encoder,
    *,
    copied_head: ContactHead | None = HEAD,
    rare_residues: RareResidues = "keep",
) -> None:
    provenance = Provenance(rare_residues=rare_residues)
    verify_copy(
        TrainedModel(encoder=copy, contact_head=copied_head, provenance=provenance),
        TrainedModel(encoder=encoder, contact_head=HEAD, provenance=provenance),
        Path("model"),
    )


def set_bias(encoder: Encoder, value: float) -> Encoder:
    with torch.no_grad():
        encoder.lm_head.bias[5] = value
    return encoder


def test_equal_bits_are_a_copy() -> None:
    verify(random_encoder(SHAPE), random_encoder(SHAPE))
    nan = float("nan")
    verify(set_bias(random_encoder(SHAPE), nan), set_bias(random_encoder(SHAPE), nan))


def test_other_bits_are_none() -> None:
    with pytest.raises(RuntimeError, match=r"model: read back, lm_head\.bias differs"):
        verify(set_bias(random_encoder(SHAPE), -0.0), set_bias(random_encoder(SHAPE), 0.0))
    other = ContactHead(coefficients=torch.tensor([0.5, 0.1]), intercept=torch.tensor(-1.0))
    with pytest.raises(RuntimeError, match=r"contact_head\.weight differs"):
        verify(random_encoder(SHAPE), random_encoder(SHAPE), copied_head=other)
    with pytest.raises(RuntimeError, match="the tensors are not those that were written"):
        verify(random_encoder(SHAPE), random_encoder(SHAPE), copied_head=None)


def test_rare_residues_may_have_been_merged() -> None:
    encoder, copy = random_encoder(SHAPE), random_encoder(SHAPE)
    with torch.no_grad():
        copy.embed_tokens.weight[25:29] = copy.embed_tokens.weight[24]
        copy.lm_head.bias[25:29] = copy.lm_head.bias[24]
    verify(copy, encoder, rare_residues="replace")
    with pytest.raises(RuntimeError, match=r"embed_tokens\.weight differs"):
        verify(copy, encoder)


def test_a_released_tensor_is_no_part_of_a_larger_memory() -> None:
    encoder = random_encoder(SHAPE).to(torch.bfloat16)
    flat = torch.arange(16.0)
    encoder.emb_layer_norm_after.weight = torch.nn.Parameter(flat[4:12])
    state = TrainedModel(encoder=encoder).state()
    weight = state["emb_layer_norm_after.weight"]
    assert weight.tolist() == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]
    assert weight.untyped_storage().nbytes() == 8 * 4
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
