"""What a run will take, on paper: tokens, epochs, operations, hours, memory and disk."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from esm1b.batches.packing import micro_batch_capacity
from esm1b.config import Config
from esm1b.corpus.config import CorpusConfig
from esm1b.download.release import expected_clusters
from esm1b.errors import UserError
from esm1b.pretraining.planning.arithmetic import flops_per_token, tokens_per_second
from esm1b.pretraining.planning.gpus import Gpu, Precision
from esm1b.pretraining.planning.lengths import (
    UNIREF50_MEAN_LENGTH,
    LengthStatistics,
    drawn_length_statistics,
    length_statistics,
)
from esm1b.pretraining.planning.memory import (
    StateBytes,
    ZeroStage,
    activation_bytes_per_token,
    automatic_micro_batch_tokens,
    checkpoint_bytes,
    fits,
    state_bytes,
    zero_stages,
)

DEFAULT_UTILISATION: Final = 0.50
"""Share of the peak: a target for this network on a H200, not a measurement."""

# Besides the one asked for: 350 TFLOP/s of a H200, a cautious figure; what BioNeMo-2's chart says
# of ESM-2 650M on 16 H100 (96,000 positions/s of 4.43 GFLOP); the upper end of the target.
_OTHER_UTILISATIONS: Final = (0.35, 0.43, 0.58)

# ESM-1b's published list of held-out clusters (README of facebookresearch/esm).
_PUBLISHED_HELD_OUT: Final = 3_016_000

_SMALLEST_MICRO_BATCH: Final = 4096


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The training sequences of a run.

    Attributes:
        sequences: how many; None where that is not known.
        lengths: means over them.
        origin: where both come from, in words.
    """

    sequences: int | None
    lengths: LengthStatistics
    origin: str


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
        tokens: `--micro-batch-tokens`.
        largest: tokens of the largest micro-batch that may come.
        rounds: micro-batches of each process in an update.
        bytes: in all, by ZeRO stage.
        fits: whether that leaves the margin free, by ZeRO stage.
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
        epochs: None where the number of sequences is not known.
        micro_batch_tokens: what `--micro-batch-tokens auto` would choose, by ZeRO stage; None where
            nothing fits.
    """

    run: str
    parameters: int
    precision: Precision
    data: TrainingData
    updates: int
    tokens_per_update: int
    tokens: int
    epochs: float | None
    flops_per_token: float
    flops: float
    gpu: Gpu
    gpus: int
    durations: Sequence[Duration]
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
        """Return all of it for a JSON file; the first of `durations` is the one asked for."""
        values = asdict(self)
        values["states"] = {
            str(stage): {**asdict(state), "total": state.total}
            for stage, state in self.states.items()
        }
        values["gpu"] = {
            "name": self.gpu.name,
            "peak_flops": self.gpu.peak_flops(self.precision),
            "source": self.gpu.source,
            "memory_bytes": self.gpu.memory_bytes,
        }
        return values


def measured_data(
    config: Config, lengths: NDArray[np.int32], origin: str = "counted"
) -> TrainingData:
    """Return what training sequences of `lengths` residues, int32 `[sequences]`, are for a run.

    Raises:
        UserError: there are none.
    """
    if not len(lengths):
        raise UserError(f"{origin}: no training sequences; expected some")
    return TrainingData(
        sequences=len(lengths),
        lengths=length_statistics(lengths, crop_residues=config.pretraining.crop_residues),
        origin=origin,
    )


def assumed_data(
    config: Config, *, mean_length: float | None = None, sequences: int | None = None
) -> TrainingData:
    """Return what is known of the training sequences without having them.

    Args:
        config: of the run.
        mean_length: residues; None takes UniRef50's.
        sequences: None takes the published number of the release that `config` names.
    """
    origins = []
    if sequences is not None:
        origins.append("number as given")
    else:
        sequences = _published_sequences(config.corpus)
        if sequences is not None:
            origins.append(f"published number of clusters of UniRef50 {config.corpus.release}")
    residues = UNIREF50_MEAN_LENGTH if mean_length is None else mean_length
    whose = "a mean of UniRef50" if mean_length is None else "as given"
    origins.append(f"{residues:g} residues on average ({whose}), lengths taken as log-normal")
    return TrainingData(
        sequences=sequences,
        lengths=drawn_length_statistics(residues, crop_residues=config.pretraining.crop_residues),
        origin="; ".join(origins),
    )


def estimate(
    config: Config,
    data: TrainingData,
    *,
    gpu: Gpu,
    gpus: int,
    utilisation: float = DEFAULT_UTILISATION,
    activation_checkpointing: bool = False,
) -> Estimate:
    """Return what the run of `config` takes on `gpus` GPUs.

    Time is that of the updates; validations, checkpoints and starts come on top.

    Raises:
        UserError: the peak of this GPU in the precision of the run is not known.
    """
    shape, recipe = config.model.shape(), config.pretraining
    precision: Precision = recipe.precision
    peak = gpu.peak_flops(precision)
    if peak is None:
        raise UserError(
            f"--gpu {gpu.name}: its peak in {precision} is not known here; expected another GPU, "
            "or pretraining.precision bf16 or fp16"
        )
    tokens = recipe.updates * recipe.tokens_per_update
    weighted = data.lengths.weighted_mean_length
    per_token = flops_per_token(shape, weighted)

    def duration(share: float) -> Duration:
        rate = tokens_per_second(shape, weighted, peak_flops=peak, utilisation=share)
        gpu_hours = tokens / rate / 3600
        return Duration(
            utilisation=share,
            tokens_per_second_per_gpu=rate,
            hours=gpu_hours / gpus,
            gpu_hours=gpu_hours,
        )

    states = {
        stage: state_bytes(shape, precision=precision, zero_stage=stage, processes=gpus)
        for stage in zero_stages(precision)
    }
    per_activation = activation_bytes_per_token(
        shape, precision=precision, activation_checkpointing=activation_checkpointing
    )

    def chosen(stage: ZeroStage) -> int | None:
        try:
            return automatic_micro_batch_tokens(
                shape,
                precision=precision,
                zero_stage=stage,
                processes=gpus,
                tokens_per_update=recipe.tokens_per_update,
                free_bytes=gpu.memory_bytes,
                activation_checkpointing=activation_checkpointing,
            )
        except UserError:
            return None

    automatic = {stage: chosen(stage) for stage in states}
    share = -(-recipe.tokens_per_update // gpus)
    sizes = {size for size in automatic.values() if size is not None}
    sizes |= {*_doubling(_SMALLEST_MICRO_BATCH, share), share}

    def memory(size: int) -> MicroBatchMemory:
        largest = micro_batch_capacity(size, shape.maximum_tokens)
        needed = {stage: state.total + per_activation * largest for stage, state in states.items()}
        return MicroBatchMemory(
            tokens=size,
            largest=largest,
            rounds=-(-share // size),
            bytes=needed,
            fits={stage: fits(amount, gpu.memory_bytes) for stage, amount in needed.items()},
        )

    epochs = None
    if data.sequences is not None:
        epochs = tokens / (data.sequences * data.lengths.mean_tokens)
    return Estimate(
        run=config.run,
        parameters=shape.parameters(),
        precision=precision,
        data=data,
        updates=recipe.updates,
        tokens_per_update=recipe.tokens_per_update,
        tokens=tokens,
        epochs=epochs,
        flops_per_token=per_token,
        flops=tokens * per_token,
        gpu=gpu,
        gpus=gpus,
        durations=[
            duration(share)
            for share in (utilisation, *(s for s in _OTHER_UTILISATIONS if s != utilisation))
        ],
        activation_checkpointing=activation_checkpointing,
        activation_bytes_per_token=per_activation,
        states=states,
        micro_batches=[memory(size) for size in sorted(sizes)],
        micro_batch_tokens=automatic,
        checkpoint_bytes=checkpoint_bytes(shape),
        # one more than are kept, since the next is whole before the oldest goes
        checkpoints=recipe.checkpoints_kept + 1,
        # with a model directory each: the weights once more
        milestone_bytes=checkpoint_bytes(shape) + 4 * shape.parameters(),
        milestones=recipe.updates // (recipe.milestone_interval or recipe.updates + 1),
    )


def _published_sequences(corpus: CorpusConfig) -> int | None:
    """Return the training sequences of a whole release whose number of clusters is published."""
    clusters = expected_clusters(corpus.release or "")
    if clusters is None or corpus.limit is not None:
        return None
    if corpus.has_published_list:
        training = clusters - _PUBLISHED_HELD_OUT
    else:
        training = round(clusters * (1 - corpus.validation_fraction))
    return round(training * (corpus.sample or 1))


def _doubling(first: int, last: int) -> list[int]:
    """Return `first` and its doubles up to `last`."""
    sizes = []
    while first <= last:
        sizes.append(first)
        first *= 2
    return sizes
