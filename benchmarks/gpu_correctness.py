"""Logits and gradients of the network on a GPU in bf16 and fp16, beside float32 on CPU.

The paths are varlen attention, the same with filler and compiled layers, and scaled dot-product
attention over padded groups. The distance of the last is rounding alone, so a larger one on another
path shows attention to the filler or to a neighboring sequence.
"""

import argparse
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.machine import describe_machine
from benchmarks.masked_sequences import CPU, MaskedSequences
from benchmarks.network import check_device
from benchmarks.proteins import read_or_draw
from esm1b.model.attention_plan import AttentionPath
from esm1b.model.encoder import Encoder, initialise
from esm1b.model.shape import EncoderShape

_SHAPE: Final = EncoderShape(layers=4, width=256, heads=4, feed_forward=1024)
# Bounds on |a - b| / |b| over all logits or gradients. bf16 keeps 8 bits and fp16 11: one rounding
# is up to 0.4 % or 0.05 %, and dozens of them in a row add up like a random walk.
BOUNDS: Final = {"bfloat16": 3e-2, "float16": 4e-3}
"""Largest distance by precision."""

_PATHS: Final[tuple[tuple[str, AttentionPath, bool], ...]] = (
    ("varlen", "varlen", False),
    ("varlen, filled and compiled", "varlen", True),
    ("sdpa", "sdpa", False),
)


@dataclass(frozen=True, kw_only=True)
class _Run:
    logits: Tensor
    gradients: Tensor


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: without the varlen paths"
    )
    parser.add_argument("--residues", type=int, default=4000, help="residues in the batch")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return distances from CPU float32 by precision and path, and the bounds on them.

    Raises:
        UserError: torch sees no CUDA device.
    """
    check_device(options.device)
    device = torch.device(options.device)
    texts = read_or_draw(None, residues=options.residues, seed=options.seed)
    sequences = MaskedSequences.of(texts, seed=options.seed)
    members = list(range(len(texts)))
    result: dict[str, Any] = {
        "benchmark": "distance of logits and gradients from float32 on CPU",
        "machine": describe_machine(torch.get_num_threads()),
        "shape": "4 layers x 256",
    }
    for precision, bound in BOUNDS.items():
        dtype = getattr(torch, precision)
        encoder = Encoder(_SHAPE)
        initialise(encoder, 0)
        # The reference has the rounded weights too, so that only the arithmetic differs.
        weights = {name: value.to(dtype) for name, value in encoder.state_dict().items()}
        encoder.load_state_dict(weights)
        reference = _run(encoder, sequences, members, device=CPU)
        distances: dict[str, dict[str, float]] = {}
        for name, path, is_compiled in _PATHS:
            if path == "varlen" and device.type == "cpu":
                continue
            ours = _encoder(weights, path, device, dtype)
            if is_compiled:
                ours.compile_layers()
            run = _run(ours, sequences, members, device=device, filled=is_compiled)
            distances[name] = {
                "logits": relative_distance(run.logits, reference.logits),
                "gradients": relative_distance(run.gradients, reference.gradients),
            }
        result[precision] = {"bound": bound, "distances": distances}
    return result


def relative_distance(actual: Tensor, expected: Tensor) -> float:
    """Return |actual - expected| / |expected|, by Euclidean norms."""
    return float((actual - expected).norm() / expected.norm())


def _encoder(
    weights: dict[str, Tensor], path: AttentionPath, device: torch.device, dtype: torch.dtype
) -> Encoder:
    encoder = Encoder(_SHAPE, attention=path)
    encoder.load_state_dict(weights)
    return encoder.to(device, dtype)


def _run(
    encoder: Encoder,
    sequences: MaskedSequences,
    members: list[int],
    *,
    device: torch.device,
    filled: bool = False,
) -> _Run:
    """Return logits at the masked positions and the gradients of their loss, moved to the CPU."""
    batch = sequences.pack(members, device)
    packed = batch.packed
    if filled:
        packed = packed.filled(
            capacity=2 * len(packed.tokens), sequences=2 * len(members) + 8, longest=1024
        )
    logits = encoder(packed, batch.masked_positions).float()
    # a sum, because the gradients of a mean would underflow in fp16
    loss = functional.cross_entropy(logits, batch.targets, reduction="sum")
    loss.backward()  # type: ignore[no-untyped-call]  # torch's, untyped
    gradients = [
        parameter.grad.detach().float().cpu().flatten()
        for parameter in encoder.parameters()
        if parameter.grad is not None
    ]
    return _Run(logits=logits.detach().cpu(), gradients=torch.cat(gradients))
