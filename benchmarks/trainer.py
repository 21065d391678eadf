"""Overhead of the whole trainer: loop, data, DeepSpeed, agreement, logging.

`trainer` is the loop of `esm1b pretrain` in a single process: tokens from memory-mapped shards,
DeepSpeed, metrics and TensorBoard every 10 updates. `bare` is the same encoder on the same
micro-batches, which are on the device before the clock starts, and torch's fused AdamW: no
DeepSpeed and no loop. In bf16 its weights, gradients and moments are bf16, while the trainer keeps
float32 master weights. Both start from the same weights; 10 updates warm up, and the last loss of
the warm-up must agree. Validation and checkpoints are not timed.

- `share_lost`: share of the bare model's unpadded tokens per second that the trainer loses. On CPU
  the sides take turns after every update; on CUDA one runs after the other.
- `after`: the trainer goes on, saves a checkpoint, and validates. `save_stall_seconds` is what the
  update that saves takes beyond the median; `slowed_seconds` the same of all updates from there on,
  while files may be written behind them. Compilations are counted before and after the validation,
  and the peak of the device's memory is beside that of `esm1b estimate`.
- `loop_overhead`, on CPU: share of the trainer's time outside of forward (encoder and loss),
  backward (autograd without DeepSpeed's hooks) and Adam's step, divided into sections.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, Final, get_args

import torch

from benchmarks.interleaving import Measured, Work, measure_in_turn
from benchmarks.machine import describe_machine
from benchmarks.network import (
    ORDER,
    add_network_options,
    add_place_options,
    check_place,
    describe_shape,
    size_of,
)
from benchmarks.proteins import add_fasta_option, describe_sequences, read_or_draw
from benchmarks.sections import NETWORK
from benchmarks.trainer_sides import (
    BEYOND,
    SAVE_AFTER,
    VALIDATE_AFTER,
    WARM_UP,
    Bare,
    Run,
    WholeTrainer,
)
from esm1b.config import Config, parse_config
from esm1b.corpus.sharding.shard import shard
from esm1b.corpus.tokens.tokenize import tokenize
from esm1b.files import read_json
from esm1b.model.attention_plan import AttentionPath
from esm1b.pretraining.engine.deepspeed_settings import check_layout
from esm1b.pretraining.options import Layout
from esm1b.pretraining.planning.gpus import model_flops_utilisation
from esm1b.pretraining.planning.memory import TrainingMemory

# Relative difference of the two sides' losses
_TOLERANCE: Final = {"fp32": 1e-4, "bf16": 2e-2}
_BUILD: Final[dict[str, Callable[[Run], Work]]] = {"trainer": WholeTrainer, "bare": Bare}
# Allowance for held-out sequences, which are not used, and for updates larger than the mean.
_SPARE: Final = 1.05


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_fasta_option(parser)
    add_network_options(parser, layers=6, width=320, heads=20)
    parser.add_argument("--tokens-per-update", type=int, default=8192, help="tokens of an update")
    parser.add_argument(
        "--micro-batch-tokens",
        type=int,
        default=2048,
        help="most tokens of a micro-batch; 0: as many as fit in the GPU",
    )
    parser.add_argument("--updates", type=int, default=12, help="timed updates of each pass")
    parser.add_argument("--passes", type=int, default=3, help="number of passes")
    add_place_options(parser)
    parser.add_argument(
        "--attention",
        choices=get_args(AttentionPath),
        default="auto",
        help="implementation of attention",
    )
    parser.add_argument(
        "--zero-stage",
        type=int,
        choices=(0, 1, 2, 3),
        default=1,
        help="ZeRO stage of the `trainer` side",
    )
    parser.add_argument("--no-bare", action="store_true", help="the trainer alone")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all sides and return the result."""
    is_cuda = options.device == "cuda"
    updates = WARM_UP + options.passes * options.updates + BEYOND
    config = _config(options, updates)
    memory = TrainingMemory(shape=config.model.shape(), precision=options.precision, processes=1)
    check_place(options)
    if options.micro_batch_tokens == 0:
        options.micro_batch_tokens = _largest_micro_batch(memory, options)
    layout = _layout(options)
    texts = read_or_draw(
        options.fasta,
        residues=round(_SPARE * updates * options.tokens_per_update),
        seed=options.seed,
    )
    machine = describe_machine(options.threads)
    with tempfile.TemporaryDirectory() as name:
        run = Run(
            tokens=_tokens_of(texts, Path(name)),
            checkpoints=Path(name) / "checkpoints",
            config=config,
            layout=layout,
            updates_in_a_piece=options.updates if is_cuda else 1,
            pieces=options.passes if is_cuda else options.passes * options.updates,
        )
        run.checkpoints.mkdir()
        measured = _measure(run, options.passes, ("trainer",) if options.no_bare else _BUILD)
        amounts = _Amounts.of(run, options.passes)
        overhead = None if is_cuda else _overhead(read_json(run.sections), run.last - WARM_UP)
    estimate = memory.needed_bytes(options.zero_stage, options.micro_batch_tokens)
    peak = measured["trainer"].last["peak_device_memory_gib"]
    losses = {name: side.first for name, side in measured.items()}
    if max(losses.values()) / min(losses.values()) - 1 > _TOLERANCE[options.precision]:
        raise RuntimeError(f"losses after the warm-up differ: {losses}")
    ours, *others = measured.values()
    ratios = ours.compared_with(others[0]) if others else {}
    return {
        "benchmark": "the whole trainer beside the bare model",
        "machine": machine,
        "shape": describe_shape(config.model.shape()),
        "sequences": describe_sequences(texts, options.fasta, options.seed),
        "settings": {
            "precision": options.precision,
            "device": options.device,
            "attention": options.attention,
            "compiled": options.compile,
            "zero_stage": options.zero_stage,
            "tokens_per_update": options.tokens_per_update,
            "micro_batch_tokens": options.micro_batch_tokens,
            "warm_up_updates": WARM_UP,
            "updates_in_a_pass": options.updates,
            "passes": options.passes,
            "log_interval": WARM_UP,
            "deepspeed": metadata.version("deepspeed"),
            "order": ORDER[options.device],
        },
        "loop_overhead": overhead,
        "after": {
            **measured["trainer"].last,
            "estimated_memory_gib": round(estimate / 2**30, 2),
            "peak_over_estimate": round(peak * 2**30 / estimate, 3),
        },
        "share_lost": {
            key: round(1 - 1 / ratio, 4) for key, ratio in ratios.items() if key != "peak_memory"
        },
        "sides": {
            name: _summary(side, amounts, config, is_cuda) for name, side in measured.items()
        },
    }


def _largest_micro_batch(memory: TrainingMemory, options: argparse.Namespace) -> int:
    return memory.automatic_micro_batch(
        options.zero_stage,
        tokens_per_update=options.tokens_per_update,
        free_bytes=torch.cuda.get_device_properties(0).total_memory
        if options.device == "cuda"
        else None,
    )


def _layout(options: argparse.Namespace) -> Layout:
    layout = Layout(
        micro_batch_tokens=options.micro_batch_tokens,
        zero_stage=options.zero_stage,
        threads=options.threads,
        device=options.device,
        attention=options.attention,
        compile=options.compile,
    )
    check_layout(options.precision, layout)
    return layout


def _config(options: argparse.Namespace, updates: int) -> Config:
    content = {
        "seed": options.seed,
        "model": size_of(options),
        "pretraining": {
            "updates": updates,
            "tokens_per_update": options.tokens_per_update,
            # the paper's: in a few updates it changes the weights too little for bf16 to show
            "learning_rate": 1e-4,
            "warmup_updates": 16_000,
            "precision": options.precision,
            "log_interval": WARM_UP,
            "validation_interval": updates - BEYOND + VALIDATE_AFTER,
            "validation_sequences": 64,
            "checkpoint_interval": updates - BEYOND + SAVE_AFTER,
        },
    }
    return parse_config(content, origin="the options")


def _tokens_of(texts: Sequence[str], folder: Path) -> Path:
    """Write the sequences as a tokens directory and return it."""
    fasta, corpus, tokens = folder / "some.fasta", folder / "corpus", folder / "tokens"
    fasta.write_text("".join(f">{number}\n{text}\n" for number, text in enumerate(texts)))
    shard([str(fasta)], corpus, shards=4)
    tokenize(corpus, tokens)
    return tokens


def _measure(run: Run, passes: int, sides: Iterable[str]) -> dict[str, Measured]:
    return measure_in_turn(
        {name: partial(_BUILD[name], run) for name in sides},
        passes=passes,
        pieces=run.pieces // passes,
        threads=run.layout.threads,
        device=run.layout.device,
    )


def _overhead(taken: Mapping[str, Mapping[str, float]], updates: int) -> dict[str, Any]:
    """Return the shares of elapsed and processor time outside of the network, and by section."""
    seconds, cpu_seconds = taken["seconds"], taken["cpu_seconds"]
    total, cpu_total = sum(seconds.values()), sum(cpu_seconds.values())
    return {
        "share": round(1 - sum(seconds[name] for name in NETWORK) / total, 4),
        "cpu_share": round(1 - sum(cpu_seconds[name] for name in NETWORK) / cpu_total, 4),
        "milliseconds_of_an_update": round(total / updates * 1000, 2),
        "sections": {
            name: {
                "share": round(seconds[name] / total, 5),
                "cpu_share": round(cpu_seconds[name] / cpu_total, 5),
                "milliseconds_of_an_update": round(seconds[name] / updates * 1000, 3),
            }
            for name in sorted(seconds, key=lambda name: -seconds[name])
        },
    }


@dataclass(frozen=True, kw_only=True)
class _Amounts:
    """Sizes of the timed updates.

    Attributes:
        tokens: real tokens of each pass.
        padded_positions: padded positions of all passes together.
        weighted_mean_length: sum of squared lengths over the sum of lengths, in tokens.
    """

    tokens: list[int]
    padded_positions: int
    weighted_mean_length: float

    @classmethod
    def of(cls, run: Run, passes: int) -> "_Amounts":
        """Return the sizes of the timed updates of a run."""
        updates = list(run.micro_batches(WARM_UP, run.last))
        lengths = [
            [int(n) for batch in batches for n in batch.lengths if len(batch.targets)]
            for batches in updates
        ]
        tokens = [sum(update) for update in lengths]
        in_a_pass = len(updates) // passes
        filling = run.filling()
        positions = sum(map(len, updates)) * filling.capacity if filling else sum(tokens)
        return cls(
            tokens=[
                sum(tokens[first : first + in_a_pass]) for first in range(0, len(tokens), in_a_pass)
            ],
            padded_positions=positions - sum(tokens),
            weighted_mean_length=sum(n**2 for update in lengths for n in update) / sum(tokens),
        )


def _summary(side: Measured, amounts: _Amounts, config: Config, is_cuda: bool) -> dict[str, Any]:
    seconds = side.pass_seconds
    rate = median(tokens / s for tokens, s in zip(amounts.tokens, seconds, strict=True))
    summary: dict[str, Any] = {
        "unpadded_tokens_per_second": round(rate),
        "unpadded_tokens_by_pass": amounts.tokens,
        "padded_positions": amounts.padded_positions,
        "seconds_by_pass": [round(s, 3) for s in seconds],
        "cpu_seconds_by_pass": [round(sum(pieces), 3) for pieces in side.cpu_seconds],
        "peak_memory_mib": round(side.peak_memory_bytes / 2**20),
        "loss_after_warm_up": side.first,
    }
    if is_cuda:
        utilisation = model_flops_utilisation(
            config.model.shape(),
            tokens_per_second=rate,
            weighted_mean_length=amounts.weighted_mean_length,
            gpu_name=torch.cuda.get_device_name(),
            gpus=1,
            precision=config.pretraining.precision,
        )
        summary["model_flops_utilisation"] = None if utilisation is None else round(utilisation, 4)
    return summary
