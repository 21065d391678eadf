"""What the whole trainer takes beside the network: loop, data, DeepSpeed, agreement, logging.

`trainer` is the loop of `esm1b pretrain` in a single process: tokens from memory-mapped shards,
DeepSpeed, metrics and TensorBoard every 10 updates. `bare` is the same encoder on the same
micro-batches, which lie on the device before the clock starts, and torch's fused AdamW: no
DeepSpeed and no loop. In bf16 its weights, gradients and moments are bf16, while the trainer keeps
float32 masters. Both start from the same weights; 10 updates warm up, and the last loss of these
must agree. No validation and no checkpoint falls into what is timed.

- `share_lost`: how much less unpadded tokens a second the trainer does than the bare model. On CPU
  both work in turn, an update each; on CUDA one after the other, a pass at a time.
- `loop_overhead`, on CPU: the share of the trainer's time outside of forward (encoder and loss),
  backward (autograd, without what DeepSpeed does in it) and Adam's step, and what it is made of.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, Final, get_args

import torch

from benchmarks.command import parser_of, run_command
from benchmarks.interleaving import Measured, Work, measure
from benchmarks.machine import describe_machine
from benchmarks.proteins import describe_sequences, read_or_draw
from benchmarks.sections import NETWORK
from benchmarks.trainer_sides import WARM_UP, Bare, Run, WholeTrainer
from esm1b.config import Config, parse_config
from esm1b.corpus.sharding.shard import shard
from esm1b.corpus.tokens.tokenize import tokenize
from esm1b.errors import UserError
from esm1b.files import read_json
from esm1b.model.attention_plan import AttentionPath
from esm1b.pretraining.engine.deepspeed_settings import check_layout
from esm1b.pretraining.options import Layout
from esm1b.pretraining.planning.gpus import model_flops_utilisation

# Updates after the last timed one: the loader has work to the end, and the run does not end.
_BEYOND: Final = 10
# Of the two sides' losses, relative.
_TOLERANCE: Final = {"fp32": 1e-4, "bf16": 2e-2}
# Held-out sequences, which are not used, and an update's excess over its mean.
_SPARE: Final = 1.05


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the result."""
    parser = parser_of("trainer", __doc__, layers=6, width=320, heads=20)
    parser.add_argument("--tokens-per-update", type=int, default=8192, metavar="N")
    parser.add_argument("--micro-batch-tokens", type=int, default=2048, metavar="N")
    parser.add_argument("--updates", type=int, default=12, help="timed, of each pass")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--attention", choices=get_args(AttentionPath), default="auto")
    parser.add_argument("--compile", action="store_true", help="the layers (cuda, bf16)")
    parser.add_argument("--zero-stage", type=int, choices=(0, 1, 2, 3), default=1)
    run_command(parser, arguments, _measured)


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    is_cuda = options.device == "cuda"
    layout = _layout(options)
    updates = WARM_UP + options.passes * options.updates + _BEYOND
    config = _config(options, updates)
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
        measured = _measure(run, options.passes)
        amounts = _Amounts.of(run, options.passes)
        overhead = None if is_cuda else _overhead(read_json(run.sections), run.last - WARM_UP)
    losses = {name: side.first for name, side in measured.items()}
    if abs(losses["trainer"] / losses["bare"] - 1) > _TOLERANCE[options.precision]:
        raise RuntimeError(f"losses after the warm-up differ: {losses}")
    ratios = measured["trainer"].compared_with(measured["bare"])
    shape = config.model.shape()
    return {
        "benchmark": "the whole trainer beside the bare model",
        "machine": machine,
        "shape": {**asdict(shape), "parameters": shape.parameters()},
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
            "order": "sides one after the other, each in a process of its own"
            if is_cuda
            else "sides in turn, an update each; each side in a process of its own",
        },
        "loop_overhead": overhead,
        "share_lost": {
            key: round(1 - 1 / ratio, 4) for key, ratio in ratios.items() if key != "peak_memory"
        },
        "sides": {
            name: _summary(side, amounts, config, is_cuda) for name, side in measured.items()
        },
    }


def _layout(options: argparse.Namespace) -> Layout:
    is_cuda = options.device == "cuda"
    if is_cuda and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device; expected one, or --device cpu")
    if options.compile and not (is_cuda and options.precision == "bf16"):
        raise UserError("--compile: expected --device cuda and --precision bf16")
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
        "model": {
            "layers": options.layers,
            "width": options.width,
            "heads": options.heads,
            "feed_forward": 4 * options.width,
        },
        "pretraining": {
            "updates": updates,
            "tokens_per_update": options.tokens_per_update,
            # the paper's, which in a few updates changes the weights too little to tell bf16 apart
            "learning_rate": 1e-4,
            "warmup_updates": 16_000,
            "precision": options.precision,
            "log_interval": WARM_UP,
            "validation_interval": updates,
            "checkpoint_interval": updates,
        },
    }
    return parse_config(content, origin="the options")


def _tokens_of(texts: Sequence[str], folder: Path) -> Path:
    """Return a tokens directory of sequences."""
    fasta, corpus, tokens = folder / "some.fasta", folder / "corpus", folder / "tokens"
    fasta.write_text("".join(f">{number}\n{text}\n" for number, text in enumerate(texts)))
    shard([str(fasta)], corpus, shards=4)
    tokenize(corpus, tokens)
    return tokens


def _measure(run: Run, passes: int) -> dict[str, Measured]:
    sides: dict[str, Callable[[], Work]] = {
        "trainer": partial(WholeTrainer, run),
        "bare": partial(Bare, run),
    }
    turn = partial(measure, passes=passes, pieces=run.pieces // passes, threads=run.layout.threads)
    if run.layout.device == "cuda":  # each has the memory of the device to itself
        return {name: turn({name: build})[name] for name, build in sides.items()}
    return turn(sides)


def _overhead(taken: Mapping[str, Mapping[str, float]], updates: int) -> dict[str, Any]:
    """Return the shares outside of the network, of time and of processor time."""
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
    """What is timed.

    Attributes:
        tokens: real tokens of each pass.
        padded_positions: of all passes.
        weighted_mean_length: sum of squared lengths over the sum of lengths, in tokens.
    """

    tokens: list[int]
    padded_positions: int
    weighted_mean_length: float

    @classmethod
    def of(cls, run: Run, passes: int) -> "_Amounts":
        """Count the timed updates of a run."""
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


if __name__ == "__main__":
    main()
