"""The network that a benchmark measures: its options, initial weights, and description."""

import argparse
from dataclasses import asdict
from typing import Any, Final

import torch

from esm1b.errors import UserError
from esm1b.model.encoder import Encoder, initialise
from esm1b.model.shape import EncoderShape

ORDER: Final = {
    "cpu": "sides in turn, an update each; each side in a process of its own",
    "cuda": "sides one after the other, each in a process of its own",
}
"""The order in which sides are measured, by device."""


def add_network_options(
    parser: argparse.ArgumentParser, *, layers: int, width: int, heads: int
) -> None:
    """Add options for the shape, with these defaults, and for torch's threads."""
    parser.add_argument("--layers", type=int, default=layers, help="number of layers")
    parser.add_argument("--width", type=int, default=width, help="width of the embeddings")
    parser.add_argument("--heads", type=int, default=heads, help="attention heads per layer")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads used by torch")


def add_place_options(parser: argparse.ArgumentParser) -> None:
    """Add options for the device, the precision and compilation."""
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="precision of the network"
    )
    parser.add_argument("--device", choices=tuple(ORDER), default="cpu", help="device of all sides")
    parser.add_argument(
        "--compile", action="store_true", help="compilation of our layers; needs cuda and bf16"
    )


def check_place(options: argparse.Namespace) -> None:
    """Check the options of `add_place_options`.

    Raises:
        UserError: there is no GPU, or it would be needed to compile.
    """
    check_device(options.device)
    if options.compile and (options.device, options.precision) != ("cuda", "bf16"):
        raise UserError("--compile: expected --device cuda and --precision bf16")


def check_device(device: str) -> None:
    """Check that there is such a device, or raise a `UserError`."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device; expected one, or --device cpu")


def size_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return layers, width, heads and feed-forward width, as a configuration names them."""
    return {
        "layers": options.layers,
        "width": options.width,
        "heads": options.heads,
        "feed_forward": 4 * options.width,
    }


def initial_encoder(options: argparse.Namespace) -> Encoder:
    """Return an encoder of the shape in `options` with random weights."""
    encoder = Encoder(EncoderShape(**size_of(options)))
    initialise(encoder, options.seed)
    return encoder


def describe_shape(shape: EncoderShape) -> dict[str, Any]:
    """Return a result's description of the network."""
    return {**asdict(shape), "parameters": shape.parameters()}
