"""The network of the released size, 652 million parameters, against both peers.

Our model and fair-esm's share their memory: 2.6 GB in float32, 5.2 GB in float64.
"""

import tempfile
from pathlib import Path

import pytest

from esm1b.model.shape import EncoderShape
from tests.model.parity import (
    batch,
    compare,
    fair_esm,
    fair_esm_outputs,
    our_outputs,
    shared_contact_head,
    shared_encoder,
    transformers_model,
    transformers_outputs,
    without_float32_casts,
)

pytestmark = pytest.mark.slow

SHAPE = EncoderShape()
PACKED = batch((70, 33), 0.15)


def test_parity_with_fair_esm() -> None:
    encoder, head = shared_encoder(SHAPE), shared_contact_head(SHAPE)
    expected = fair_esm_outputs(fair_esm(encoder, head), PACKED)
    difference = compare(our_outputs(encoder, head, PACKED), expected)
    assert difference.are_within(relative=1e-5, absolute=2e-6)

    encoder.double()
    theirs = fair_esm(encoder, head)
    with without_float32_casts():
        expected = fair_esm_outputs(theirs, PACKED)
    difference = compare(our_outputs(encoder, head, PACKED), expected)
    assert difference.are_within(relative=1e-12, absolute=1e-12)


def test_parity_with_transformers() -> None:
    encoder, head = shared_encoder(SHAPE), shared_contact_head(SHAPE)
    fair_esm_gives = fair_esm_outputs(fair_esm(encoder, head), PACKED)
    with tempfile.TemporaryDirectory() as folder:  # pytest would keep tmp_path for later
        theirs = transformers_model(encoder, head, Path(folder) / "model")
    expected = transformers_outputs(theirs, PACKED)
    among_peers = compare(fair_esm_gives, expected)
    difference = compare(our_outputs(encoder, head, PACKED), expected)
    assert difference.are_within(
        relative=max(among_peers.logits, among_peers.representations, 1e-5),
        absolute=max(among_peers.attentions, among_peers.contacts, 2e-6),
    )
