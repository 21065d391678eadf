"""What a run will take, on paper: tokens, epochs, operations, hours, traffic, memory and disk."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

from esm1b.batches.packing import micro_batch_capacity
from esm1b.config import Config, TrainingPrecision
from esm1b.errors import UserError
from esm1b.pretraining.planning.data import TrainingData
from esm1b.pretraining.planning.gpus import Gpu, flops_per_token
from esm1b.pretraining.planning.memory import (
    StateBytes,
    TrainingMemory,
    ZeroStage,
    checkpoint_bytes,
    fits,
)
from esm1b.pretraining.planning.network import Transfer, slowest_connection, transfers

DEFAULT_UTILISATION: Final = 0.50
"""Share of the peak: a target for this network on a H200, not a measurement."""

# Besides the requested one: 350 TFLOP/s of a H200, a cautious figure; what BioNeMo-2's chart says
# of ESM-2 650M on 16 H100 (96,000 positions/s of 4.43 GFLOP); the upper end of the target.
_OTHER_UTILISATIONS: Final = (0.35, 0.43, 0.58)

_SMALLEST_MICRO_BATCH: Final = 4096


@dataclass(frozen=True, kw_only=True)
class Duration:
    """Time at a share of the GPUs' peak."""

    utilisation: float
    tokens_per_second_per_gpu: float
    hours: float
    gpu_hours: float


@dataclass(frozen=True, kw_only=True)
class MicroBatchMemory:
    """Memory of a GPU with a size of the micro-batch.

    Attributes:
        tokens: value of `--micro-batch-tokens`.
        largest: tokens of the largest possible micro-batch.
        rounds: micro-batches of each process in an update.
        bytes: memory needed in all, by ZeRO stage.
        fits: True if the margin stays free, by ZeRO stage.
    """

    tokens: int
    largest: int
    rounds: int
    bytes: Mapping[ZeroStage, int]
    fits: Mapping[ZeroStage, bool]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Everything that can be said of a run before it starts.

    Attributes:
        epochs: number of epochs, None where the number of sequences is not known.
        link_gbit: rate of a node's links together, Gbit/s; None: not known.
        tokens_per_gpu: tokens of an update for each GPU.
        durations: time of the computation at several shares of the peak, the requested one first.
        transfers: traffic of an update between GPUs, by ZeRO stage where a micro-batch fits.
        time_limit_seconds: longest duration of a job; None: no limit.
        micro_batch_tokens: choice of `--micro-batch-tokens auto`, by ZeRO stage; None where
            nothing fits.
    """

    run: str
    parameters: int
    precision: TrainingPrecision
    data: TrainingData
    updates: int
    tokens_per_update: int
    tokens: int
    epochs: float | None
    flops_per_token: float
    flops: float
    gpu: Gpu
    gpus: int
    gpus_per_node: int
    nodes: int
    link_gbit: float | None
    tokens_per_gpu: int
    durations: Sequence[Duration]
    transfers: Mapping[ZeroStage, Transfer]
    time_limit_seconds: int | None
    activation_checkpointing: bool
    activation_bytes_per_token: int
    states: Mapping[ZeroStage, StateBytes]
    micro_batches: Sequence[MicroBatchMemory]
    micro_batch_tokens: Mapping[ZeroStage, int | None]
    checkpoint_bytes: int
    checkpoints: int
    milestone_bytes: int
    milestones: int

    def as_json(self) -> dict[str, Any]:
        """Return all of it for a JSON file."""
        values = asdict(self)
        for stage, state in self.states.items():
            values["states"][stage]["total"] = state.total
        values["gpu"] = {
            "name": self.gpu.name,
            "peak_flops": self.gpu.peak_flops(self.precision),
            "source": self.gpu.source,
            "memory_bytes": self.gpu.memory_bytes,
            "nvlink_bytes": self.gpu.nvlink_bytes,
        }
        return values


def estimate(
    config: Config,
    data: TrainingData,
    *,
    gpu: Gpu,
    gpus: int,
    gpus_per_node: int = 8,
    link_gbit: float | None = None,
    utilisation: float = DEFAULT_UTILISATION,
    activation_checkpointing: bool = False,
    time_limit_seconds: int | None = None,
) -> Estimate:
    """Return what the run of `config` takes on `gpus` GPUs, up to `gpus_per_node` of them a node.

    The time is that of the updates; validations, checkpoints and starts come on top.

    Raises:
        UserError: the peak of this GPU in the precision of the run is not known.
    """
    shape, recipe = config.model.shape(), config.pretraining
    gpus_per_node = min(gpus, gpus_per_node)
    rate = slowest_connection(gpu, gpus=gpus, gpus_per_node=gpus_per_node, link_gbit=link_gbit)
    peak = gpu.peak_flops(recipe.precision)
    if peak is None:
        raise UserError(
            f"--gpu {gpu.name}: its peak in {recipe.precision} is not known here; expected another "
            "GPU, or pretraining.precision bf16 or fp16"
        )
    tokens = recipe.updates * recipe.tokens_per_update
    per_token = flops_per_token(shape, data.lengths.weighted_mean_length)
    parts = (utilisation, *_OTHER_UTILISATIONS)  # each once, in this order
    rates = {part: peak * part / per_token for part in parts}
    memory = TrainingMemory(
        shape=shape,
        precision=recipe.precision,
        processes=gpus,
        activation_checkpointing=activation_checkpointing,
    )
    automatic: dict[ZeroStage, int | None] = dict.fromkeys(memory.zero_stages)
    for stage in automatic:
        with suppress(UserError):  # not even the longest sequence fits
            automatic[stage] = memory.automatic_micro_batch(
                stage, tokens_per_update=recipe.tokens_per_update, free_bytes=gpu.memory_bytes
            )
    share = -(-recipe.tokens_per_update // gpus)
    # 4,096 and its doubles up to a process's share, and those chosen
    doubles = range((share // _SMALLEST_MICRO_BATCH).bit_length())
    sizes = {share, *(_SMALLEST_MICRO_BATCH << doubling for doubling in doubles)}
    sizes |= {size for size in automatic.values() if size is not None}
    return Estimate(
        run=config.run,
        parameters=shape.parameters(),
        precision=recipe.precision,
        data=data,
        updates=recipe.updates,
        tokens_per_update=recipe.tokens_per_update,
        tokens=tokens,
        epochs=(
            None if data.sequences is None else tokens / (data.sequences * data.lengths.mean_tokens)
        ),
        flops_per_token=per_token,
        flops=tokens * per_token,
        gpu=gpu,
        gpus=gpus,
        gpus_per_node=gpus_per_node,
        nodes=-(-gpus // gpus_per_node),
        link_gbit=link_gbit,
        tokens_per_gpu=share,
        durations=[
            Duration(
                utilisation=part,
                tokens_per_second_per_gpu=rate,
                hours=tokens / rate / 3600 / gpus,
                gpu_hours=tokens / rate / 3600,
            )
            for part, rate in rates.items()
        ],
        transfers=transfers(
            memory,
            bytes_per_second=rate,
            micro_batch_tokens=automatic,
            tokens_per_update=recipe.tokens_per_update,
            updates=recipe.updates,
            compute_seconds=recipe.tokens_per_update / rates[utilisation] / gpus,
            time_limit_seconds=time_limit_seconds,
        ),
        time_limit_seconds=time_limit_seconds,
        activation_checkpointing=activation_checkpointing,
        activation_bytes_per_token=memory.activation_bytes_per_token(),
        states={stage: memory.state(stage) for stage in memory.zero_stages},
        micro_batches=[_micro_batch(memory, size, share, gpu) for size in sorted(sizes)],
        micro_batch_tokens=automatic,
        checkpoint_bytes=checkpoint_bytes(shape),
        # one more than are kept: the oldest is removed once the next is complete
        checkpoints=recipe.checkpoints_kept + 1,
        # each with a model directory, which has the weights again
        milestone_bytes=checkpoint_bytes(shape) + 4 * shape.parameters(),
        milestones=recipe.updates // (recipe.milestone_interval or recipe.updates + 1),
    )


def _micro_batch(memory: TrainingMemory, tokens: int, share: int, gpu: Gpu) -> MicroBatchMemory:
    needed = {stage: memory.needed_bytes(stage, tokens) for stage in memory.zero_stages}
    return MicroBatchMemory(
        tokens=tokens,
        largest=micro_batch_capacity(tokens, memory.shape.maximum_tokens),
        rounds=-(-share // tokens),
        bytes=needed,
        fits={stage: fits(amount, gpu.memory_bytes) for stage, amount in needed.items()},
    )
