"""The estimate of a run in words and tables, for a terminal."""

from collections.abc import Iterator
from typing import Final

from esm1b.pretraining.planning.estimate import Estimate, MicroBatchMemory
from esm1b.pretraining.planning.memory import MEMORY_MARGIN, ZeroStage
from esm1b.pretraining.planning.transfer_text import hours_in_words, transfer_lines

_ALL_STAGES: Final[tuple[ZeroStage, ...]] = (0, 1, 2, 3)
# With fewer rows, a matrix as wide as ESM-1b's has too few tiles (128 x 128: 10 across 1,280) for
# the hundred and more multiprocessors of a GPU.
_FEWEST_TOKENS: Final = 4096
_STATE_LABELS: Final = {
    "weights": "weights",
    "gradients": "gradients",
    "master_weights": "fp32 weights",
    "moments": "Adam's moments",
    "buffers": "buffers",
    "total": "together",
}


def estimate_text(estimate: Estimate) -> str:
    """Return everything that the estimate says, in at most 100 columns."""
    blocks = (_run, _time, transfer_lines, _state, _micro_batches, _disk)
    texts = ("\n".join(line.rstrip() for line in block(estimate)) for block in blocks)
    return "\n\n".join(filter(None, texts))


def _run(estimate: Estimate) -> Iterator[str]:
    data, lengths, gpu = estimate.data, estimate.data.lengths, estimate.gpu
    sequences = "number of training sequences not known: --tokens or --sequences says it"
    if data.sequences is not None:
        sequences = f"{data.sequences:,} training sequences"
    epochs = "" if estimate.epochs is None else f", {estimate.epochs:.2f} epochs"
    peak = gpu.peak_flops(estimate.precision) or 0.0
    facts = [
        ("run", f"{estimate.run}, {estimate.parameters:,} parameters, {estimate.precision}"),
        ("data", sequences),
        *(("", origin) for origin in data.origin.split("; ")),
        (
            "lengths",
            f"{lengths.mean_tokens:.1f} tokens on average, cropped, special tokens included; "
            f"weighted by length {lengths.weighted_mean_length:.1f}",
        ),
        (
            "updates",
            f"{estimate.updates:,} of {estimate.tokens_per_update:,} tokens: "
            f"{_scaled(estimate.tokens)} tokens{epochs}",
        ),
        (
            "operations",
            f"{_scaled(estimate.flops_per_token)}FLOP a token, {estimate.flops:.3g} FLOP in all",
        ),
        ("GPUs", f"{estimate.gpus} x {gpu.name}, {peak / 1e12:g} TFLOP/s dense"),
        ("", gpu.source),
    ]
    if estimate.precision == "bf16" and gpu.name.startswith("V100"):
        facts.append(("", "it has no bf16, so fp16 is counted: pretraining.precision fp16"))
    return (f"{name:<12}{text}" for name, text in facts)


def _time(estimate: Estimate) -> Iterator[str]:
    yield "time, of the computation alone; transfer, validation, checkpoints and starts come on top"
    yield f"  {'share of peak':<16} tokens/s of a GPU       hours     days   GPU-hours"
    mark = "  <-"  # the requested share comes first
    for duration in estimate.durations:
        yield (
            f"  {f'{100 * duration.utilisation:g} %':<16}"
            f"{duration.tokens_per_second_per_gpu:>18,.0f}{hours_in_words(duration.hours):>12}"
            f"{duration.hours / 24:>9.2f}{hours_in_words(duration.gpu_hours):>12}{mark}"
        )
        mark = ""
    yield "  50 % is a target for 652 M parameters on a H200, not a measurement. Published: 43 %"
    yield "  (BioNeMo-2, ESM-2 650M, 16 H100, padding counted as work) and about 30 % of a smaller"
    yield "  network (SpeedrunningPLMs, 133 M parameters, a H200)."
    if estimate.tokens_per_gpu < _FEWEST_TOKENS:
        yield (
            f"  warning: {estimate.tokens_per_gpu:,} tokens per GPU and update; with fewer than "
            f"{_FEWEST_TOKENS:,} expect a smaller share of the peak"
        )


def _state(estimate: Estimate) -> Iterator[str]:
    yield "memory of a GPU apart from activations, GB"
    yield f"  {'':<20}" + "".join(f"{f'ZeRO {stage}':>10}" for stage in _ALL_STAGES)
    states = [estimate.states.get(stage) for stage in _ALL_STAGES]
    for part, label in _STATE_LABELS.items():
        cells = ["-" if state is None else f"{getattr(state, part) / 1e9:.2f}" for state in states]
        yield f"  {label:<20}" + "".join(f"{cell:>10}" for cell in cells)
    if 0 not in estimate.states:
        yield f"  stage 0 keeps no fp32 weights and is not for {estimate.precision}"


def _micro_batches(estimate: Estimate) -> Iterator[str]:
    how = "with" if estimate.activation_checkpointing else "without"
    yield (
        f"memory of a GPU with activations, GB: {estimate.activation_bytes_per_token / 1e6:.3g} MB "
        f"a token {how} activation checkpointing"
    )
    yield (
        f"  of {estimate.gpu.memory_bytes / 1e9:.1f} GB, {100 * MEMORY_MARGIN:g} % stay free; (no) "
        "does not fit, * is chosen by --micro-batch-tokens auto"
    )
    yield "     tokens  rounds" + "".join(f"{f'ZeRO {stage}':>17}" for stage in _ALL_STAGES)
    for row in estimate.micro_batches:
        cells = [_cell(estimate, row, stage) for stage in _ALL_STAGES]
        yield f"  {row.tokens:>9,}{row.rounds:>8,}" + "".join(f"{cell:>17}" for cell in cells)
    nothing = [stage for stage, tokens in estimate.micro_batch_tokens.items() if tokens is None]
    if nothing:
        yield (
            f"  ZeRO {', '.join(map(str, nothing))}: not even the longest sequence fits; "
            "--activation-checkpointing or a larger GPU"
        )


def _cell(estimate: Estimate, row: MicroBatchMemory, stage: ZeroStage) -> str:
    if stage not in estimate.states:
        return "-"
    mark = "*" if estimate.micro_batch_tokens[stage] == row.tokens else " "
    return f"{'' if row.fits[stage] else '(no) '}{row.bytes[stage] / 1e9:.1f}{mark}"


def _disk(estimate: Estimate) -> Iterator[str]:
    def size(count: int, what: str, each: int) -> str:
        return f"{count} {what} of {each / 1e9:.2f} GB, {count * each / 1e9:.1f} GB"

    checkpoints = size(estimate.checkpoints, "checkpoints", estimate.checkpoint_bytes)
    yield f"disk: {checkpoints} (checkpoints_kept and the next)"
    if estimate.milestones:
        milestones = size(estimate.milestones, "milestones", estimate.milestone_bytes)
        yield f"      {milestones}, a model with each"


def _scaled(number: float) -> str:
    """Return a number before its unit: `65.5 G`, `820 `."""
    for prefix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.3g} {prefix}"
    return f"{number:.3g} "
