"""Bytes that an update moves between GPUs, by ZeRO stage, and how long that takes.

What DeepSpeed 0.19 does under the settings of `deepspeed_settings`: gradients travel in float32,
weights in the precision of the multiplications.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from esm1b.pretraining.planning.gpus import Gpu
from esm1b.pretraining.planning.memory import LIVE_PARAMETERS, TrainingMemory, ZeroStage


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes of the whole tensors that the collectives of an update handle, by kind."""

    all_reduced: int
    reduce_scattered: int
    gathered: int

    def sent(self, processes: int) -> float:
        """Return the bytes that each process sends in a ring; it receives as many.

        Neighbours in the ring are neighbours in rank, so this is also what leaves each node, and
        what enters it.
        """
        passes = 2 * self.all_reduced + self.reduce_scattered + self.gathered
        return passes * (processes - 1) / processes


def update_traffic(
    memory: TrainingMemory,
    stage: ZeroStage,
    *,
    rounds: int,
    live_parameters: int = LIVE_PARAMETERS,
) -> Traffic:
    """Return what an update of `rounds` micro-batches per process moves.

    Stages 0 and 1 sum the gradient once, stages 2 and 3 after every micro-batch. Stages 0 to 2 have
    all-reduce do it, also where a process needs a part only. Stages 1 and 2 gather the weights
    after Adam's step. Stage 3 gathers them in every micro-batch, and a second time, for the
    backward pass, those beyond the `live_parameters` that it keeps. Measured on a link between two
    nodes, by `tests/pretraining/planning/test_network.py`: within 3 %.
    """
    parameters = memory.shape.parameters()
    gradients, weights = 4 * parameters, memory.number_bytes * parameters
    if stage == 3:
        again = max(0, parameters - live_parameters)
        return Traffic(
            all_reduced=0,
            reduce_scattered=rounds * gradients,
            gathered=rounds * (weights + memory.number_bytes * again),
        )
    return Traffic(
        all_reduced=gradients * (rounds if stage == 2 else 1),
        reduce_scattered=0,
        gathered=0 if stage == 0 else weights,
    )


def slowest_connection(
    gpu: Gpu, *, gpus: int, gpus_per_node: int, link_gbit: float | None
) -> float | None:
    """Return the bytes a second of the slowest connection in the ring; None where it is not known.

    `link_gbit` is the rate of a node's links together, Gbit/s in each direction; None: not known.
    """
    if gpus <= gpus_per_node:
        return gpu.nvlink_bytes
    if link_gbit is None:
        return None
    between = link_gbit * 1e9 / 8
    within = gpu.nvlink_bytes if gpus_per_node > 1 else None
    return between if within is None else min(within, between)


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What a ZeRO stage moves in an update, and the time of the run with it.

    Attributes:
        rounds: micro-batches of each process in an update.
        traffic: bytes by kind of collective.
        sent_bytes: bytes that leave each node, or each GPU of a single node; as many enter.
        seconds: time of an update's transfer at the full rate of the slowest connection; None
            where that rate is not known.
        compute_seconds: time of an update's computation, at the requested share of the peak.
        hours_overlapped: time of the run if computation hides all it can of the transfer.
        hours_in_turn: time of the run if transfer and computation take turns, as at stages 0 to 2
            without DeepSpeed's `overlap_comm`.
        jobs: jobs of the time limit that the run takes in turn; None without a limit.
    """

    rounds: int
    traffic: Traffic
    sent_bytes: float
    seconds: float | None
    compute_seconds: float
    hours_overlapped: float | None
    hours_in_turn: float | None
    jobs: int | None

    @property
    def is_slow(self) -> bool:
        """True where the transfer takes more than half as long as the computation."""
        return self.seconds is not None and 2 * self.seconds > self.compute_seconds

    @property
    def wanted_gbit(self) -> float:
        """Rate of a node, in Gbit/s, at which the transfer takes half as long as computation."""
        return 8e-9 * self.sent_bytes / (self.compute_seconds / 2)


def transfers(
    memory: TrainingMemory,
    *,
    bytes_per_second: float | None,
    micro_batch_tokens: Mapping[ZeroStage, int | None],
    tokens_per_update: int,
    updates: int,
    compute_seconds: float,
    time_limit_seconds: int | None = None,
) -> dict[ZeroStage, Transfer]:
    """Return the transfer of every ZeRO stage that has a micro-batch which fits.

    Args:
        memory: network, precision and number of processes.
        bytes_per_second: rate of the slowest connection between the GPUs; None: not known.
        micro_batch_tokens: choice of the micro-batch by ZeRO stage; None where nothing fits.
        tokens_per_update: tokens of an update over all processes.
        updates: updates of the run.
        compute_seconds: time of an update's computation.
        time_limit_seconds: longest duration of a job; None: no limit.
    """
    gpus, rate = memory.processes, bytes_per_second
    share = -(-tokens_per_update // gpus)
    found = {}
    for stage, tokens in micro_batch_tokens.items():
        if tokens is None:
            continue
        rounds = -(-share // tokens)
        traffic = update_traffic(memory, stage, rounds=rounds)
        sent = traffic.sent(gpus)
        seconds = 0.0 if gpus == 1 else None if rate is None else sent / rate
        in_turn = updates * (compute_seconds + (seconds or 0.0))
        found[stage] = Transfer(
            rounds=rounds,
            traffic=traffic,
            sent_bytes=sent,
            seconds=seconds,
            compute_seconds=compute_seconds,
            hours_overlapped=(
                None if seconds is None else updates * max(compute_seconds, seconds) / 3600
            ),
            hours_in_turn=None if seconds is None else in_turn / 3600,
            jobs=None if time_limit_seconds is None else math.ceil(in_turn / time_limit_seconds),
        )
    return found
