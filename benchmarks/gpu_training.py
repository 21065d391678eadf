"""Training of ESM-1b's network on one GPU in bf16, compared with `transformers`.

Weights, gradients and Adam's moments are in bf16; every update ends with a fused AdamW step. All
batches are on the device before the clock starts. The sides train on the same sequences:

- `packed`: this package's encoder, one micro-batch per update, filled up to a fixed capacity;
  compiled, and eager;
- `transformers`: `EsmForMaskedLM` with scaled dot-product attention, several padded micro-batches
  per update, each with a limited number of positions; in random order, and grouped by length.

First, the CUDA path is compared with CPU in float32.
"""

import argparse
import gc
import importlib.util
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._dynamo.utils import counters

from benchmarks.gpu_correctness import check_cuda
from benchmarks.gpu_throughput import (
    WARM_UP,
    Throughput,
    fill_capacity,
    fit_positions,
    measure_packed,
    measure_padded,
)
from benchmarks.machine import describe_machine
from benchmarks.masked_sequences import MaskedSequences, deal
from benchmarks.network import add_network_options, describe_shape, initial_encoder
from benchmarks.proteins import add_fasta_option, describe_sequences, read_or_draw
from esm1b.errors import UserError
from esm1b.model.encoder import Encoder
from esm1b.model.shape import EncoderShape
from esm1b.weights.save_model import hugging_face_files, hugging_face_name


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_fasta_option(parser)
    add_network_options(parser, layers=33, width=1280, heads=20)
    parser.add_argument("--updates", type=int, default=8, help="timed updates of each side")
    for name, default, what in (
        ("capacity", [32_768, 65_536], "tokens of a `packed` micro-batch, filler included"),
        ("positions", [16_384, 32_768], "most positions of a `transformers` micro-batch"),
    ):
        parser.add_argument(
            f"--{name}",
            type=int,
            nargs="+",
            default=default,
            help=f"{what}; several make several sides",
        )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all sides on the GPU and return the result.

    Raises:
        UserError: torch sees no CUDA device.
    """
    if not torch.cuda.is_available():
        raise UserError("torch sees no CUDA device; expected a GPU with bf16")
    return measure_on(torch.device("cuda"), torch.bfloat16, options)


def measure_on(
    device: torch.device, dtype: torch.dtype, options: argparse.Namespace
) -> dict[str, Any]:
    """Return the result of all sides; on CPU without the comparison and the compiled sides."""
    is_cuda = device.type == "cuda"
    updates = WARM_UP + options.updates
    residues = (updates + 1) * max(options.capacity)
    texts = read_or_draw(options.fasta, residues=residues, seed=options.seed)
    sequences = MaskedSequences.of(texts, seed=options.seed)
    encoder = initial_encoder(options)
    result: dict[str, Any] = {
        "benchmark": "encoder training on one GPU: forward, backward, fused AdamW",
        "machine": describe_machine(options.threads),
        "shape": describe_shape(encoder.shape),
        "sequences": describe_sequences(texts, options.fasta, options.seed),
        "settings": {
            "precision": str(dtype).removeprefix("torch."),
            "timed_updates": options.updates,
            "warm_up_updates": WARM_UP,
        },
    }
    if is_cuda:
        few = fill_capacity(range(len(texts)), sequences.lengths, capacity=4096)[0]
        result["correctness"] = check_cuda(sequences, few, device)
    encoder = encoder.to(device, dtype)
    sides: dict[str, Any] = {}
    for capacity in options.capacity:
        members = fill_capacity(range(len(texts)), sequences.lengths, capacity=capacity)[:updates]
        for is_compiled in (False, True) if is_cuda else (False,):
            name = f"packed {capacity}, {'compiled' if is_compiled else 'eager'}"
            sides[name] = _packed(
                encoder, sequences, members, capacity=capacity, is_compiled=is_compiled
            )
    # All `transformers` sides take the updates of the largest capacity.
    members = fill_capacity(range(len(texts)), sequences.lengths, capacity=max(options.capacity))
    if importlib.util.find_spec("transformers") is None:
        result["settings"]["transformers"] = "not installed, left out"
    else:
        for positions in options.positions:
            for is_grouped in (False, True):
                name = f"transformers {'grouped' if is_grouped else 'padded'} {positions}"
                sides[name] = _padded(
                    encoder,
                    sequences,
                    members[:updates],
                    positions=positions,
                    is_grouped=is_grouped,
                )
    result["sides"] = sides
    rates = {
        name: side["unpadded_tokens_per_second"]
        for name, side in sides.items()
        if "failed" not in side
    }
    best = max((name for name in rates if name.startswith("packed")), key=lambda name: rates[name])
    result["ratios"] = {
        f"{best} / {name}": round(rates[best] / rate, 3)
        for name, rate in rates.items()
        if name != best
    }
    return result


def _packed(
    encoder: Encoder,
    sequences: MaskedSequences,
    updates: list[list[int]],
    *,
    capacity: int,
    is_compiled: bool,
) -> dict[str, Any]:
    weight = encoder.embed_tokens.weight

    def train() -> Throughput:
        copy = Encoder(encoder.shape).to(weight.device, weight.dtype)
        copy.load_state_dict(encoder.state_dict())
        if is_compiled:
            torch._dynamo.reset()
            copy.compile_layers()
        return measure_packed(copy, sequences, updates=updates, capacity=capacity)

    counters.clear()
    summary = _summary(train, encoder.shape)
    if is_compiled and "failed" not in summary:
        summary["compilations"] = counters["stats"]["unique_graphs"]
        summary["graph_breaks"] = sum(counters["graph_break"].values())
    return summary


def _padded(
    encoder: Encoder,
    sequences: MaskedSequences,
    updates: list[list[int]],
    *,
    positions: int,
    is_grouped: bool,
) -> dict[str, Any]:
    lengths = sequences.lengths
    if is_grouped:
        everything = sorted(
            (member for update in updates for member in update), key=lambda member: lengths[member]
        )
        batches = fit_positions(everything, lengths, positions=positions)
        plan = deal(batches, len(updates), seed=0)
    else:
        plan = [fit_positions(update, lengths, positions=positions) for update in updates]

    def train() -> Throughput:
        return measure_padded(_transformers_network(encoder), sequences, updates=plan)

    summary = _summary(train, encoder.shape)
    if "failed" not in summary:
        summary["micro_batches_in_an_update"] = round(sum(map(len, plan)) / len(plan), 1)
    return summary


def _summary(train: Callable[[], Throughput], shape: EncoderShape) -> dict[str, Any]:
    """Return the entry of a side in the result, after freeing the network built by `train`."""
    try:
        measured = train()
    except torch.cuda.OutOfMemoryError:
        measured = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {"failed": "out of memory"} if measured is None else measured.summary(shape)


def _transformers_network(encoder: Encoder) -> nn.Module:
    """Return `EsmForMaskedLM` with the weights, device and precision of `encoder`."""
    from transformers import EsmConfig, EsmForMaskedLM

    config = EsmConfig(**json.loads(hugging_face_files(encoder.shape)["config.json"]))
    network: nn.Module = EsmForMaskedLM(config)
    weight = encoder.embed_tokens.weight
    network.to(weight.device, weight.dtype)
    state = {hugging_face_name(name): tensor for name, tensor in encoder.state_dict().items()}
    missing, unexpected = network.load_state_dict(state, strict=False)
    left = [name for name in missing if "contact_head" not in name and "position_ids" not in name]
    if unexpected or set(left) - {"lm_head.decoder.weight", "lm_head.decoder.bias"}:
        raise RuntimeError(f"weights do not fit: missing {left}, unexpected {unexpected}")
    return network
