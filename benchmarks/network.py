"""The network that a benchmark measures: its options, initial weights, and description."""

import argparse
from dataclasses import asdict
from typing import Any

from esm1b.model.encoder import Encoder, initialise
from esm1b.model.shape import EncoderShape


def add_network_options(
    parser: argparse.ArgumentParser, *, layers: int, width: int, heads: int
) -> None:
    """Add options for the shape, with these defaults, and for torch's threads."""
    parser.add_argument("--layers", type=int, default=layers, help="number of layers")
    parser.add_argument("--width", type=int, default=width, help="width of the embeddings")
    parser.add_argument("--heads", type=int, default=heads, help="attention heads per layer")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads used by torch")


def initial_encoder(options: argparse.Namespace) -> Encoder:
    """Return an encoder of the shape in `options` with random weights."""
    encoder = Encoder(
        EncoderShape(
            layers=options.layers,
            width=options.width,
            heads=options.heads,
            feed_forward=4 * options.width,
        )
    )
    initialise(encoder, options.seed)
    return encoder


def describe_shape(shape: EncoderShape) -> dict[str, Any]:
    """Return a result's description of the network."""
    return {**asdict(shape), "parameters": shape.parameters()}
