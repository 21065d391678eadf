"""The estimate of a run in words and tables, for a terminal."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from esm1b.pretraining.planning.estimate import Estimate, MicroBatchMemory
from esm1b.pretraining.planning.memory import MEMORY_MARGIN, ZeroStage
from esm1b.pretraining.planning.network import Transfer

_ALL_STAGES: Final[tuple[ZeroStage, ...]] = (0, 1, 2, 3)
_HEADINGS: Final = [f"ZeRO {stage}" for stage in _ALL_STAGES]
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
_JOBS_NOTE: Final = "; starts and saves not counted; one requeue less"


def estimate_text(estimate: Estimate) -> str:
    """Return everything that the estimate says, in at most 100 columns."""
    blocks = (_run, _time, _transfer, _state, _micro_batches, _disk)
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
            f"{duration.tokens_per_second_per_gpu:>18,.0f}{_hours(duration.hours):>12}"
            f"{duration.hours / 24:>9.2f}{_hours(duration.gpu_hours):>12}{mark}"
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


def _transfer(estimate: Estimate) -> Iterator[str]:
    """Yield the lines about transfer and jobs; a single GPU has no transfer."""
    nodes, limit, gbit = estimate.nodes, estimate.time_limit_seconds, estimate.link_gbit
    jobs_label = "" if limit is None else f"jobs of {limit / 3600:g} h"
    if estimate.gpus == 1:
        jobs = {transfer.jobs for transfer in estimate.transfers.values()}
        yield from (f"{jobs_label}: {count}{_JOBS_NOTE}" for count in jobs if count is not None)
        return
    rate = "" if gbit is None else f", {gbit:g} Gb/s from each node"
    yield f"transfer of an update: {nodes} x {estimate.gpus_per_node} GPUs{rate}"
    yield _row("", 14, _HEADINGS)
    for label, cell in _transfer_rows(nodes, jobs_label):
        found = map(estimate.transfers.get, _ALL_STAGES)
        yield _row(label, 14, ("-" if transfer is None else cell(transfer) for transfer in found))
    yield "  hours at the full rate of the links: all transfer behind computation, or both in turn;"
    yield "  without DeepSpeed's overlap_comm ZeRO 0 to 2 take turns, ZeRO 3 hides a part"
    if limit is not None:
        yield f"  jobs: in turn{_JOBS_NOTE}"
    if nodes == 1 and estimate.gpu.nvlink_bytes is None:
        yield "  no time of the transfer is counted: the rate within a node is known of NVLink only"
    if nodes > 1 and gbit is None:
        yield "  warning: without --link-gbit no time of the network is counted, see the last row"
    if slow := [str(stage) for stage, each in estimate.transfers.items() if each.is_slow]:
        yield f"  warning: ZeRO {', '.join(slow)}: transfer takes more than half as long as"
        yield "  computation; expected faster links, see the last row, or fewer GPUs"


def _transfer_rows(nodes: int, jobs_label: str) -> Iterator[tuple[str, Callable[[Transfer], str]]]:
    """Yield the rows of the table, each as its label and what makes its cells."""
    yield "micro-batches", lambda transfer: str(transfer.rounds)
    whose = "GPU" if nodes == 1 else "node"
    yield f"GB from each {whose}", lambda transfer: f"{transfer.sent_bytes / 1e9:.2f}"
    yield "transfer, ms", lambda transfer: _milliseconds(transfer.seconds)
    yield "compute, ms", lambda transfer: _milliseconds(transfer.compute_seconds)
    yield "hours", _range_of_hours
    if jobs_label:
        yield jobs_label, lambda transfer: str(transfer.jobs)
    if nodes > 1:
        yield "Gb/s for compute/2", lambda transfer: f"{transfer.wanted_gbit:,.0f}"


def _hours(hours: float) -> str:
    """Return hours with three digits or so."""
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.2f}"


def _range_of_hours(transfer: Transfer) -> str:
    if transfer.hours_overlapped is None or transfer.hours_in_turn is None:
        return "-"
    ends = map(_hours, (transfer.hours_overlapped, transfer.hours_in_turn))
    return "-".join(dict.fromkeys(ends))


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:,.{0 if seconds >= 0.01 else 2}f}"


def _state(estimate: Estimate) -> Iterator[str]:
    yield "memory of a GPU apart from activations, GB"
    yield _row("", 10, _HEADINGS)
    states = [estimate.states.get(stage) for stage in _ALL_STAGES]
    for part, label in _STATE_LABELS.items():
        cells = ["-" if state is None else f"{getattr(state, part) / 1e9:.2f}" for state in states]
        yield _row(label, 10, cells)
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
    yield _row("   tokens  rounds", 17, _HEADINGS, label_width=17)
    for row in estimate.micro_batches:
        cells = [_cell(estimate, row, stage) for stage in _ALL_STAGES]
        yield _row(f"{row.tokens:>9,}{row.rounds:>8,}", 17, cells, label_width=17)
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


def _row(label: str, width: int, cells: Iterable[str], *, label_width: int = 20) -> str:
    """Return a row of a table: its label, and a cell for each ZeRO stage."""
    return f"  {label:<{label_width}}" + "".join(f"{cell:>{width}}" for cell in cells)


def _scaled(number: float) -> str:
    """Return a number before its unit: `65.5 G`, `820 `."""
    for prefix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.3g} {prefix}"
    return f"{number:.3g} "
