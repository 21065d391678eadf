"""The same weights in fair-esm, in transformers and here, and how far their results lie apart."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from esm import ESM2, Alphabet, ProteinBertModel, multihead_attention
from torch import Tensor
from torch.nn import functional
from transformers import EsmForMaskedLM

from benchmarks.embedding import fair_esm_arguments
from esm1b.alphabet import MASK, PAD
from esm1b.model.encoder import Encoder
from esm1b.model.layers import ContactHead
from esm1b.model.packed import PackedTokens, pack_sequences
from esm1b.model.rotary import rotary_frequencies
from esm1b.model.shape import EncoderShape
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model
from tests.conftest import random_encoder

__all__ = [
    "MASKED_SHARES",
    "SHAPES",
    "Differences",
    "Outputs",
    "batch",
    "compare",
    "fair_esm",
    "fair_esm_outputs",
    "largest_gradient_difference",
    "masked_loss",
    "mixed_batch",
    "our_outputs",
    "relative_difference",
    "shared_contact_head",
    "shared_encoder",
    "transformers_model",
    "transformers_outputs",
    "without_float32_casts",
]

SHAPES = {
    "plain": EncoderShape(layers=2, width=32, heads=4, feed_forward=64),
    "odd head width": EncoderShape(layers=3, width=21, heads=3, feed_forward=26),
    "one layer and head": EncoderShape(layers=1, width=20, heads=1, feed_forward=28),
    "ESM-1v": EncoderShape(layers=3, width=24, heads=2, feed_forward=96, layer_norm_before=False),
    "wide and shallow": EncoderShape(layers=2, width=192, heads=3, feed_forward=64),
    "ESM-2": EncoderShape(
        layers=3,
        width=24,
        heads=2,
        feed_forward=96,
        layer_norm_before=False,
        positions="rotary",
    ),
    "ESM-2 as released": EncoderShape(
        layers=2,
        width=64,
        heads=1,
        feed_forward=256,
        layer_norm_before=False,
        positions="rotary-fp16",
    ),
}
MASKED_SHARES = (0.0, 0.15, 0.5, 0.9, 1.0)

_FIRST_RESIDUE, _LAST_RESIDUE = 4, 28  # L to C, then X, B, U, Z and O


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a model makes of a packed batch of T tokens, without padding.

    Attributes:
        logits: `[T, 33]`.
        representations: by layer, from the input of the stack, `[T, width]`.
        attentions: by sequence, `[layers, heads, tokens, tokens]`.
        contacts: by sequence, `[residues, residues]`.
    """

    logits: Tensor
    representations: list[Tensor]
    attentions: list[Tensor]
    contacts: list[Tensor]


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Largest differences; of logits and representations, relative to the largest value."""

    logits: float
    representations: float
    attentions: float
    contacts: float

    def are_within(self, relative: float, absolute: float) -> bool:
        """Return whether none is larger; print them, for pytest to show, if one is."""
        within = (
            max(self.logits, self.representations) <= relative
            and max(self.attentions, self.contacts) <= absolute
        )
        if not within:
            print(f"{self}; expected at most {relative} (relative) and {absolute} (absolute)")
        return within


def compare(actual: Outputs, expected: Outputs) -> Differences:
    """Return how far `actual` lies from `expected`."""

    def largest(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
        return max(_difference(*pair) for pair in zip(ours, theirs, strict=True))

    pairs = zip(actual.representations, expected.representations, strict=True)
    return Differences(
        logits=relative_difference(actual.logits, expected.logits),
        representations=max(relative_difference(*pair) for pair in pairs),
        attentions=largest(actual.attentions, expected.attentions),
        contacts=largest(actual.contacts, expected.contacts),
    )


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest value of `expected`."""
    return _difference(actual, expected) / float(expected.abs().max())


def _difference(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    return float((actual - expected).abs().max())


def shared_encoder(shape: EncoderShape) -> Encoder:
    """Return random weights under which no width makes attention so steep that it jumps."""
    encoder = random_encoder(shape)
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight *= min(1.0, (32 / shape.width) ** 0.5)
    return encoder


def shared_contact_head(shape: EncoderShape) -> ContactHead:
    """Return a random contact head whose probabilities spread."""
    generator = torch.Generator().manual_seed(1)
    channels = shape.layers * shape.heads
    return ContactHead(
        coefficients=torch.randn(channels, generator=generator) * 12 / channels**0.5,
        intercept=torch.tensor(-1.0),
    )


def batch(lengths: Sequence[int], masked_share: float) -> PackedTokens:
    """Return random sequences of all 25 residue symbols, `masked_share` of each masked."""
    generator = np.random.default_rng(len(lengths) + sum(lengths))
    sequences = []
    for length in lengths:
        residues = generator.integers(_FIRST_RESIDUE, _LAST_RESIDUE + 1, size=length)
        masked = generator.choice(length, size=round(masked_share * length), replace=False)
        residues[masked] = MASK
        sequences.append(residues.astype(np.uint8))
    return pack_sequences(sequences, torch.device("cpu"))


def mixed_batch(masked_share: float) -> PackedTokens:
    """Return sequences of unequal lengths from 1."""
    return batch((60, 1, 17, 2, 41, 60, 5), masked_share)


@torch.no_grad()
def our_outputs(encoder: Encoder, head: ContactHead, packed: PackedTokens) -> Outputs:
    """Run our network; the logits and representations come from the path without maps."""
    layers = range(encoder.shape.layers + 1)
    representations = encoder.representations(packed, layers)
    by_layer = list(encoder.attention_maps(packed))
    by_sequence = [list(maps) for maps in zip(*by_layer, strict=True)]
    return Outputs(
        logits=encoder(packed),
        representations=[representations[layer] for layer in layers],
        attentions=[torch.stack(maps) for maps in by_sequence],
        contacts=[
            head.probabilities([layer[:, 1:-1, 1:-1] for layer in maps]) for maps in by_sequence
        ],
    )


def fair_esm(encoder: Encoder, head: ContactHead) -> Any:
    """Return fair-esm's model over the same weights, which it takes without a missing key."""
    dtype = encoder.embed_tokens.weight.dtype
    with torch.device("meta"):
        model: Any = _fair_esm_network(encoder.shape)
    state = {
        **encoder.state_dict(),
        "contact_head.regression.weight": head.coefficients[None].to(dtype),
        "contact_head.regression.bias": head.intercept[None].to(dtype),
    }
    state["lm_head.weight"] = state["embed_tokens.weight"]
    if encoder.shape.is_rotary:
        frequencies = rotary_frequencies(encoder.shape.positions, encoder.shape.head_width)
        for layer in range(encoder.shape.layers):
            state[f"layers.{layer}.self_attn.rot_emb.inv_freq"] = frequencies.to(dtype)
    model.load_state_dict(state, strict=True, assign=True)
    model.lm_head.weight = model.embed_tokens.weight
    return model.eval()


def _fair_esm_network(shape: EncoderShape) -> Any:
    if shape.is_rotary:
        return ESM2(num_layers=shape.layers, embed_dim=shape.width, attention_heads=shape.heads)
    arguments = fair_esm_arguments(shape)
    return ProteinBertModel(arguments, Alphabet.from_architecture("roberta_large"))


@torch.no_grad()
def fair_esm_outputs(model: Any, packed: PackedTokens) -> Outputs:
    """Run fair-esm on the padded batch, for the maps a second time, as that is another path."""
    tokens = packed.to_padded(packed.tokens, PAD)
    layers = range(model.num_layers + 1)
    plain = model(tokens, repr_layers=layers)
    with_maps = model(tokens, return_contacts=True)
    return Outputs(
        logits=_flat(plain["logits"], packed),
        representations=[_flat(plain["representations"][layer], packed) for layer in layers],
        attentions=[
            with_maps["attentions"][sequence, :, :, :length, :length]
            for sequence, length in enumerate(packed.lengths)
        ],
        contacts=_without_padding(with_maps["contacts"], packed),
    )


@contextmanager
def without_float32_casts() -> Iterator[None]:
    """Let a peer in float64 compute the softmax and the masked share in float64, too.

    fair-esm casts both to float32 (`esm/multihead_attention.py`, `utils_softmax`, and
    `esm/model/esm1.py`, `mask_ratio_observed`), transformers the share.
    """

    def softmax(x: Tensor, dim: int, onnx_trace: bool) -> Tensor:
        return functional.softmax(x, dim)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multihead_attention, "utils_softmax", softmax)
        patch.setattr(Tensor, "float", Tensor.double)
        yield


def transformers_model(
    encoder: Encoder, head: ContactHead, directory: Path, attention: str = "eager"
) -> Any:
    """Return transformers' model over the same weights, through a model directory."""
    save_model(encoder, directory, Provenance(rare_residues="keep"), contact_head=head)
    loader: Any = EsmForMaskedLM  # its annotations do not know keywords such as this
    return loader.from_pretrained(directory, attn_implementation=attention)


@torch.no_grad()
def transformers_outputs(model: Any, packed: PackedTokens) -> Outputs:
    """Run transformers with eager attention on the padded batch."""
    tokens = packed.to_padded(packed.tokens, PAD)
    mask = (tokens != PAD).long()
    result = model(tokens, attention_mask=mask, output_hidden_states=True, output_attentions=True)
    attentions = torch.stack(result.attentions, dim=1)
    return Outputs(
        logits=_flat(result.logits, packed),
        representations=[_flat(hidden, packed) for hidden in result.hidden_states],
        attentions=[
            attentions[sequence, :, :, :length, :length]
            for sequence, length in enumerate(packed.lengths)
        ],
        contacts=_without_padding(model.predict_contacts(tokens, mask), packed),
    )


def masked_loss(logits: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits `[masked, 33]`, the true residues being made up."""
    residues = torch.arange(len(logits)) % (_LAST_RESIDUE - _FIRST_RESIDUE + 1) + _FIRST_RESIDUE
    return functional.cross_entropy(logits, residues)


def largest_gradient_difference(encoder: Encoder, theirs: Any, packed: PackedTokens) -> float:
    """Return how far the gradients of the masked loss lie apart, relative to the largest one.

    A parameter's counterpart is found by its values, which are random.
    """
    positions = (packed.tokens == MASK).nonzero()[:, 0]
    encoder.zero_grad()
    torch.autograd.backward(masked_loss(encoder(packed, positions)))
    tokens = packed.to_padded(packed.tokens, PAD)
    result = theirs(tokens, **_attention_mask(theirs, tokens))
    theirs.zero_grad()
    torch.autograd.backward(masked_loss(_flat(result["logits"], packed)[positions]))
    differences, sizes = [], []
    for name, parameter in encoder.named_parameters():
        (counterpart,) = (p for p in theirs.parameters() if torch.equal(p, parameter))
        assert parameter.grad is not None, name
        expected = counterpart.grad.clone()
        if name == "embed_tokens.weight":
            # Through the tied projection the filler <mask> has a gradient there. fair-esm zeroes
            # the row on loading; ours stays zero in training, too.
            assert expected[MASK].any()
            assert not parameter.grad[MASK].any()
            expected[MASK] = 0.0
        differences.append(_difference(parameter.grad, expected))
        sizes.append(float(expected.abs().max()))
    return max(differences) / max(sizes)


def _attention_mask(model: Any, tokens: Tensor) -> dict[str, Tensor]:
    """Return what a padded batch needs beside its tokens: fair-esm sees the padding itself."""
    if isinstance(model, ProteinBertModel | ESM2):
        return {}
    return {"attention_mask": (tokens != PAD).long()}


def _flat(padded: Tensor, packed: PackedTokens) -> Tensor:
    """Return the rows `[T, ...]` of a padded `[sequences, longest, ...]`."""
    return padded[packed.sequence_index, packed.offsets]


def _without_padding(contacts: Tensor, packed: PackedTokens) -> list[Tensor]:
    """Return the maps `[residues, residues]` of padded ones `[sequences, longest, longest]`."""
    return [
        contacts[sequence, : length - 2, : length - 2]
        for sequence, length in enumerate(packed.lengths)
    ]
