"""What the machine decides about a run, and joining its processes."""

import logging
import os
import warnings
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

import torch
import torch.distributed

from esm1b.batches.packing import micro_batch_capacity
from esm1b.errors import UserError
from esm1b.model.attention_plan import AttentionPath
from esm1b.pretraining.launch import Place

__all__ = ["Filling", "Hardware", "gpu_of", "start_processes"]

# For a process that is late: to join the others, or at a collective the watchdog knows nothing of.
_LONGEST_WAIT: Final = timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What the machine decides; it changes the speed of a run, not its batches.

    Attributes:
        micro_batch_tokens: tokens that a process takes at once, about.
        zero_stage: what DeepSpeed divides among processes: nothing (0), optimiser state (1),
            gradients too (2), weights too (3).
        threads: CPU threads of each process.
        device: "auto" is CUDA where there is any, one GPU for each process.
        attention: how tokens attend; "auto" is varlen on CUDA in bf16 and fp16, sdpa elsewhere.
        activation_checkpointing: keep less for the backward pass and compute it again.
        compile: compile the layers; every micro-batch is then filled up to a fixed size.
        deepspeed_file: JSON with settings of DeepSpeed's that win over ours.
    """

    micro_batch_tokens: int = 4096
    zero_stage: Literal[0, 1, 2, 3] = 1
    threads: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    attention: AttentionPath = "auto"
    activation_checkpointing: bool = False
    compile: bool = False
    deepspeed_file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Filling:
    """The fixed size of the micro-batches of a compiled network; see `PackedTokens.filled`.

    Attributes:
        capacity: tokens.
        sequences: those of the filler included.
        longest: tokens of the longest sequence that may come.
    """

    capacity: int
    sequences: int
    longest: int

    @classmethod
    def of(cls, *, micro_batch_tokens: int, maximum_tokens: int) -> "Filling":
        """Return the size that holds every micro-batch of `micro_batch_tokens`, about.

        Few corpora have sequences of less than 32 tokens on average; a batch that has more of them
        takes the next multiple, at the price of another compilation.
        """
        capacity = -(-micro_batch_capacity(micro_batch_tokens, maximum_tokens) // 128) * 128
        return cls(capacity=capacity, sequences=capacity // 32, longest=maximum_tokens)


def start_processes(place: Place, hardware: Hardware) -> torch.device:
    """Join the other processes and return this process's device.

    gloo on CPU, nccl on CUDA. The environment gets torch's five variables.

    Raises:
        UserError: this process has no GPU of its own, though the run is to use GPUs.
    """
    has_cuda = hardware.device == "cuda" or (
        hardware.device == "auto" and torch.cuda.is_available()
    )
    gpu = gpu_of(place, visible=torch.cuda.device_count()) if has_cuda else None
    if not has_cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it had to guess
        # Nothing is compiled on CPU; without this DeepSpeed imports the compiler all the same.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    # On CPU DeepSpeed would compile a shared-memory operator at first use: a minute and a half, a
    # compiler needed, and a lock left behind by a killed build. Plain gloo does without.
    __compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed 0.19 calls collectives by names that torch 2.13 deprecates.
    for name in ("all_gather_into_tensor", "reduce_scatter_tensor"):
        warnings.filterwarnings("ignore", message=f".*{name}", category=FutureWarning)
    torch.set_num_threads(hardware.threads)
    backend = "gloo" if gpu is None else "nccl"
    # DeepSpeed takes LOCAL_RANK for the number of the GPU.
    os.environ.update(place.environment() | ({} if gpu is None else {"LOCAL_RANK": str(gpu)}))
    if place.processes == 1 and place.port == 0:
        # A store in memory: nothing listens, so single processes never meet.
        torch.distributed.init_process_group(
            backend,
            store=torch.distributed.HashStore(),  # type: ignore[attr-defined]  # not in __all__
            rank=0,
            world_size=1,
        )
    if gpu is not None:
        torch.cuda.set_device(gpu)
    deepspeed.init_distributed(
        dist_backend=backend, auto_mpi_discovery=False, verbose=False, timeout=_LONGEST_WAIT
    )
    return torch.device("cpu") if gpu is None else torch.device("cuda", gpu)


def gpu_of(place: Place, *, visible: int) -> int:
    """Return which of the `visible` GPUs of its node a process takes.

    Raises:
        UserError: none is left for it.
    """
    if place.launcher == "srun" and visible == 1:
        return 0  # srun --gpus-per-task=1 shows each process its own GPU alone
    if place.local_rank >= visible:
        raise UserError(
            f"--device: process {place.local_rank} of this node has no GPU, {visible} are there; "
            "expected one for each process, or --device cpu"
        )
    return place.local_rank
