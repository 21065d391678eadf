from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esm1b.alphabet import MASK, PAD
from esm1b.model.encoder import Encoder, initialise
from esm1b.model.packed import PackedTokens, pack_sequences
from esm1b.model.shape import EncoderShape
from tests.conftest import random_encoder
from tests.model.padded import padded_logits

CPU = torch.device("cpu")
SHAPE = EncoderShape(layers=2, width=16, heads=4, feed_forward=24, maximum_tokens=64)
ESM2 = replace(SHAPE, positions="rotary", layer_norm_before=False)


@pytest.fixture(scope="module", params=[SHAPE, ESM2], ids=["ESM-1b", "ESM-2"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return random_encoder(request.param).double()


def loss(encoder: Encoder, packed: PackedTokens) -> Tensor:
    """Return a sum over tokens that weighs every logit differently."""
    logits = encoder(packed)
    weights = torch.linspace(-1, 2, 33, dtype=logits.dtype) * (1 + packed.offsets[:, None] % 5)
    return torch.sum(logits.sin() * weights)


tokens_of_a_sequence = st.lists(st.sampled_from([*range(4, 29), MASK]), min_size=1, max_size=40)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(tokens_of_a_sequence, min_size=1, max_size=7))
def test_packed_equals_alone(encoder: Encoder, sequences: list[list[int]]) -> None:
    residues = [np.array(tokens, dtype=np.uint8) for tokens in sequences]
    packed = pack_sequences(residues, CPU)
    encoder.zero_grad()
    torch.autograd.backward(loss(encoder, packed))
    together = [parameter.grad for parameter in encoder.parameters()]
    encoder.zero_grad()
    for tokens, logits in zip(residues, encoder(packed).split(packed.lengths), strict=True):
        alone = pack_sequences([tokens], CPU)
        torch.testing.assert_close(encoder(alone), logits, rtol=1e-11, atol=1e-11)
        torch.autograd.backward(loss(encoder, alone))
    for gradient, parameter in zip(together, encoder.parameters(), strict=True):
        assert gradient is not None
        assert parameter.grad is not None
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_order_of_the_sequences_does_not_matter(encoder: Encoder) -> None:
    sequences = [np.full(length, 4 + length, dtype=np.uint8) for length in (3, 9, 4, 9, 1)]
    forwards = encoder(pack_sequences(sequences, CPU)).split([5, 11, 6, 11, 3])
    backwards = encoder(pack_sequences(sequences[::-1], CPU)).split([3, 11, 6, 11, 5])
    for ours, theirs in zip(forwards, backwards[::-1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_logits_at_masked_positions_are_those_of_all(encoder: Encoder) -> None:
    packed = pack_sequences([np.arange(4, 24, dtype=np.uint8)], CPU)
    positions = torch.tensor([20, 3, 3])
    torch.testing.assert_close(encoder(packed, positions), encoder(packed)[positions])
    assert encoder(packed, positions[:0]).shape == (0, 33)


@torch.no_grad()
def test_attention_maps_come_by_layer_and_sequence(encoder: Encoder) -> None:
    lengths = (20, 4, 19)
    packed = pack_sequences([np.arange(4, 4 + n, dtype=np.uint8) for n in lengths], CPU)
    layers = list(encoder.attention_maps(packed))
    assert [[maps.shape for maps in layer] for layer in layers] == [
        [(4, 22, 22), (4, 6, 6), (4, 21, 21)]
    ] * 2
    for layer in layers:
        for maps in layer:
            torch.testing.assert_close(maps.sum(-1), torch.ones_like(maps[..., 0]))


@torch.no_grad()
def test_a_padded_batch(encoder: Encoder) -> None:
    batch = torch.tensor([[0, 5, 2, 1, 1, 1], [0, 6, 32, 8, 2, 1]])
    logits = padded_logits(encoder, batch)
    first = encoder(PackedTokens.from_tokens(batch[0, :3], [3]))
    torch.testing.assert_close(logits[0, :3], first, rtol=1e-12, atol=1e-12)
    alone = encoder(PackedTokens.from_tokens(batch[1, :5], [5]))
    torch.testing.assert_close(logits[1, :5], alone, rtol=1e-12, atol=1e-12)


def test_the_filler_counts_nowhere(encoder: Encoder) -> None:
    packed = pack_sequences([np.array([4, MASK, 6], np.uint8), np.array([9], np.uint8)], CPU)
    filled = packed.filled(capacity=150, sequences=4, longest=SHAPE.maximum_tokens)
    positions = torch.tensor([2, 6])
    gradients = []
    for batch in (packed, filled):
        encoder.zero_grad()
        logits = encoder(batch, positions)
        torch.autograd.backward(logits.sin().sum())
        gradients.append([logits, *(parameter.grad for parameter in encoder.parameters())])
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_activation_checkpointing_changes_no_gradient(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack_sequences([np.arange(4, 4 + n, dtype=np.uint8) for n in (20, 4)], CPU)
    gradients = []
    for checkpointing, runs in ((False, 2), (True, 4)):  # of two layers, each once or twice
        monkeypatch.setattr(encoder, "activation_checkpointing", checkpointing)
        calls: list[object] = []
        hooks = [
            layer.register_forward_pre_hook(lambda layer, _, calls=calls: calls.append(layer))
            for layer in encoder.layers
        ]
        encoder.zero_grad()
        torch.autograd.backward(loss(encoder, packed))
        gradients.append([parameter.grad for parameter in encoder.parameters()])
        for hook in hooks:
            hook.remove()
        assert len(calls) == runs
    for expected, found in zip(*gradients, strict=True):
        assert expected is not None
        assert found is not None
        assert torch.equal(found, expected)


def test_the_filler_row_of_masks_gets_no_gradient() -> None:
    encoder = random_encoder(SHAPE)
    with torch.no_grad():
        encoder.embed_tokens.weight[MASK] = 0.5  # not even a row that is not zero takes part
    packed = pack_sequences([np.array([4, MASK, 6, MASK, 24], dtype=np.uint8)], CPU)
    torch.autograd.backward(loss(encoder, packed))
    gradient = encoder.embed_tokens.weight.grad
    assert gradient is not None
    assert gradient[MASK].tolist() == [0.0] * 16
    assert (gradient[PAD + 1 : MASK] != 0).any(1).all()
    assert encoder.embed_positions is not None
    positions = encoder.embed_positions.weight.grad
    assert positions is not None
    # <cls> sits at row 2, and there are seven tokens.
    assert (positions != 0).any(1).nonzero()[:, 0].tolist() == [2, 3, 4, 5, 6, 7, 8]


def test_too_long_a_sequence_is_refused() -> None:
    encoder = Encoder(SHAPE)
    encoder(pack_sequences([np.full(62, 4, dtype=np.uint8)], CPU))
    with pytest.raises(ValueError, match="a sequence has 65 tokens with <cls> and <eos>; expected"):
        encoder(pack_sequences([np.full(63, 4, dtype=np.uint8)], CPU))


@pytest.mark.parametrize(
    "shape",
    [
        SHAPE,
        EncoderShape(layers=1, width=6, heads=3, feed_forward=5, maximum_tokens=9),
        EncoderShape(layers=3, width=8, heads=2, feed_forward=32, layer_norm_before=False),
        ESM2,
    ],
)
def test_parameters_of_a_shape_are_those_of_the_module(shape: EncoderShape) -> None:
    assert shape.parameters() == sum(p.numel() for p in Encoder(shape).parameters())


def test_parameters_of_esm1b() -> None:
    assert EncoderShape().parameters() == 652_358_433
    with torch.device("meta"):
        encoder = Encoder(EncoderShape())
    assert sum(p.numel() for p in encoder.parameters()) == 652_358_433
    assert encoder.embed_positions is not None
    assert encoder.embed_positions.weight.shape == (1026, 1280)
    esm2 = replace(EncoderShape(), positions="rotary", layer_norm_before=False)
    assert esm2.parameters() == 652_358_433 - 1026 * 1280 - 2 * 1280


def test_initial_weights() -> None:
    encoder = Encoder(EncoderShape(layers=2, width=128, heads=4, feed_forward=512))
    initialise(encoder, 1)
    for name, parameter in encoder.named_parameters():
        if "norm" in name:
            assert (parameter == (1.0 if name.endswith("weight") else 0.0)).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            rows = parameter.detach()[parameter.any(1)]
            # Five standard errors: 1 / sqrt(2 n) of the deviation, 1 / sqrt(n) of the mean.
            n = rows.numel()
            assert abs(float(rows.std()) / 0.02 - 1) < 5 / (2 * n) ** 0.5, name
            assert abs(float(rows.mean()) / 0.02) < 5 / n**0.5, name
            # Kurtosis 3 tells a normal from a uniform (1.8) or a truncated draw.
            kurtosis = float(((rows / rows.std()) ** 4).mean())
            assert abs(kurtosis - 3) < 5 * (24 / n) ** 0.5, name
    zero_rows = (encoder.embed_tokens.weight == 0).all(1).nonzero()[:, 0]
    assert zero_rows.tolist() == [1, 32]
    assert encoder.embed_positions is not None
    assert (encoder.embed_positions.weight == 0).all(1).nonzero()[:, 0].tolist() == [1]


def test_initial_weights_depend_on_the_seed_alone() -> None:
    first, second, third = Encoder(SHAPE), Encoder(SHAPE), Encoder(SHAPE)
    torch.manual_seed(1)
    initialise(first, 7)
    torch.manual_seed(2)
    initialise(second, 7)
    initialise(third, 8)
    ours, same, other = (encoder.state_dict() for encoder in (first, second, third))
    assert all(torch.equal(ours[name], same[name]) for name in ours)
    assert not torch.equal(ours["layers.0.fc1.weight"], other["layers.0.fc1.weight"])
    # Pinned: runs of a seed start from the same weights for ever.
    pinned = ours["layers.0.fc1.weight"][0, :3].tolist()
    assert pinned == pytest.approx([0.0161187444, 0.0096205249, 0.0039793607], abs=1e-9)
