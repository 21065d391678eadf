"""What an update moves between GPUs, in the words of an estimate."""

from collections.abc import Callable, Iterator
from typing import Final

from esm1b.pretraining.planning.estimate import Estimate
from esm1b.pretraining.planning.memory import ZeroStage
from esm1b.pretraining.planning.network import Transfer

_ALL_STAGES: Final[tuple[ZeroStage, ...]] = (0, 1, 2, 3)
_JOBS_NOTE: Final = "; starts and saves not counted; one requeue less"


def transfer_lines(estimate: Estimate) -> Iterator[str]:
    """Yield the lines about transfer and jobs; a single GPU has no transfer."""
    nodes, limit, gbit = estimate.nodes, estimate.time_limit_seconds, estimate.link_gbit
    jobs_label = "" if limit is None else f"jobs of {limit / 3600:g} h"
    if estimate.gpus == 1:
        jobs = {transfer.jobs for transfer in estimate.transfers.values()}
        yield from (f"{jobs_label}: {count}{_JOBS_NOTE}" for count in jobs if count is not None)
        return
    rate = "" if gbit is None else f", {gbit:g} Gb/s from each node"
    yield f"transfer of an update: {nodes} x {estimate.gpus_per_node} GPUs{rate}"
    yield f"  {'':<20}" + "".join(f"{f'ZeRO {stage}':>14}" for stage in _ALL_STAGES)
    for label, cell in _rows(nodes, jobs_label):
        found = map(estimate.transfers.get, _ALL_STAGES)
        cells = ("-" if transfer is None else cell(transfer) for transfer in found)
        yield f"  {label:<20}" + "".join(f"{text:>14}" for text in cells)
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


def _rows(nodes: int, jobs_label: str) -> Iterator[tuple[str, Callable[[Transfer], str]]]:
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


def hours_in_words(hours: float) -> str:
    """Return hours with three digits or so."""
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.2f}"


def _range_of_hours(transfer: Transfer) -> str:
    if transfer.hours_overlapped is None or transfer.hours_in_turn is None:
        return "-"
    ends = map(hours_in_words, (transfer.hours_overlapped, transfer.hours_in_turn))
    return "-".join(dict.fromkeys(ends))


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:,.{0 if seconds >= 0.01 else 2}f}"
