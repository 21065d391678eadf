"""A sequence's logits and gradients do not depend on its neighbours in the batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from esm1b.alphabet import MASK, PAD
from esm1b.model.encoder import Encoder
from esm1b.model.packed import PackedTokens, pack_sequences
from esm1b.model.shape import EncoderShape
from tests.conftest import random_encoder
from tests.model.padded import padded_logits

SHAPE = EncoderShape(layers=1, width=12, heads=2, feed_forward=16, maximum_tokens=32)
ESM2 = replace(SHAPE, positions="rotary", layer_norm_before=False)


@pytest.fixture(scope="module")
def encoders() -> list[Encoder]:
    return [random_encoder(shape).double() for shape in (SHAPE, ESM2)]


def flat_gradients(encoder: Encoder, loss: Tensor) -> Tensor:
    """Return the gradients of all parameters, end to end."""
    gradients = torch.autograd.grad(loss, list(encoder.parameters()))
    return torch.cat([gradient.ravel() for gradient in gradients])


def summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits, targets, reduction="sum")


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(
    is_rotary=st.booleans(),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    chosen_share=st.floats(0, 1),
    masked_share=st.floats(0, 1),
    extra_padding=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_packed_is_padded_is_alone(
    encoders: list[Encoder],
    is_rotary: bool,
    lengths: list[int],
    chosen_share: float,
    masked_share: float,
    extra_padding: int,
    seed: int,
) -> None:
    encoder = encoders[is_rotary]
    generator = np.random.default_rng(seed)
    residues = [generator.integers(4, 29, size=length) for length in lengths]
    chosen = [generator.random(length) < chosen_share for length in lengths]
    chosen[0][0] = True
    sequences = [
        np.where(picked & (generator.random(len(picked)) < masked_share), MASK, tokens)
        for tokens, picked in zip(residues, chosen, strict=True)
    ]
    packed = pack_sequences([s.astype(np.uint8) for s in sequences], torch.device("cpu"))
    # <cls> and <eos> are never predicted.
    is_target = torch.from_numpy(np.concatenate([np.pad(picked, 1) for picked in chosen]))
    positions = is_target.nonzero()[:, 0]
    targets = torch.from_numpy(np.concatenate(residues)[np.concatenate(chosen)])

    logits = encoder(packed)
    gradients = flat_gradients(encoder, summed_loss(logits[positions], targets))

    tokens = functional.pad(packed.to_padded(packed.tokens, PAD), (0, extra_padding), value=PAD)
    padded = padded_logits(encoder, tokens)[packed.sequence_index, packed.offsets]
    torch.testing.assert_close(padded, logits, rtol=1e-10, atol=1e-10)
    padded_gradients = flat_gradients(encoder, summed_loss(padded[positions], targets))
    scale = float(gradients.abs().max())
    assert float((padded_gradients - gradients).abs().max()) <= 1e-10 * scale

    losses = []
    parts = (torch.split(values, list(packed.lengths)) for values in (packed.tokens, logits))
    for sequence, (own_tokens, own_logits) in enumerate(zip(*parts, strict=True)):
        alone = PackedTokens.from_tokens(own_tokens, [len(own_tokens)])
        found = encoder(alone)
        torch.testing.assert_close(found, own_logits, rtol=1e-10, atol=1e-10)
        picked = torch.from_numpy(np.pad(chosen[sequence], 1))
        own_targets = torch.from_numpy(residues[sequence][chosen[sequence]])
        losses.append(summed_loss(found[picked], own_targets))
    alone_gradients = flat_gradients(encoder, torch.stack(losses).sum())
    assert float((alone_gradients - gradients).abs().max()) <= 1e-10 * scale
