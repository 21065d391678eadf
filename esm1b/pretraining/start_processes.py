"""Starting the processes of a run together: each on its device, all connected to each other."""

import logging
import os
import platform
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import ModuleType
from typing import Final, cast

import torch
import torch.distributed
from torch.distributed import Store  # type: ignore[attr-defined]  # not in __all__

from esm1b.errors import RunFailure, UserError, one_line
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.distributed.rendezvous import LIMITS, RendezvousLimits, in_thread, meet
from esm1b.pretraining.options import Layout

_log = logging.getLogger(__name__)

# The wait for a process that is late at a collective unknown to the watchdog.
_LONGEST_WAIT: Final = timedelta(minutes=10)


def start_processes(
    place: Place,
    layout: Layout,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
    limit_seconds: float = LIMITS.come,
) -> torch.device:
    """Join the other processes and return this process's device.

    They use gloo on CPU, nccl on CUDA. The environment gets torch's five variables. The others have
    `limit_seconds` to come, and all of them that time again to connect; `is_stopped` ends the wait.

    Raises:
        UserError: there is no GPU for this process, though the run is to use GPUs.
        RunFailure: some processes did not come, or they could not connect.
        Stopped: somebody asked to stop before all had come.
    """
    has_cuda = layout.device == "cuda" or (layout.device == "auto" and torch.cuda.is_available())
    gpus = torch.cuda.device_count() if has_cuda else 0
    gpu = gpu_of(place, visible=gpus) if has_cuda else None
    deepspeed = _import_deepspeed(has_cuda=has_cuda)
    torch.set_num_threads(layout.threads)
    backend = "gloo" if gpu is None else "nccl"
    # DeepSpeed takes LOCAL_RANK as the number of the GPU.
    os.environ.update(place.environment() | ({} if gpu is None else {"LOCAL_RANK": str(gpu)}))
    device = torch.device("cpu") if gpu is None else torch.device("cuda", gpu)
    if gpu is not None:
        torch.cuda.set_device(gpu)
    if place.processes > 1:
        limits = RendezvousLimits(come=limit_seconds)
        store = meet(place, is_stopped=is_stopped, limits=limits)
        store.set_timeout(_LONGEST_WAIT)
        _connect(place, store, backend, device, limit_seconds)
    else:
        warning = too_few_processes(os.environ, gpus=gpus)
        if warning is not None:
            _log.warning(warning)
        # A store in memory: nothing listens, so single processes never meet.
        torch.distributed.init_process_group(
            backend,
            store=torch.distributed.HashStore(),  # type: ignore[attr-defined]  # not in __all__
            rank=0,
            world_size=1,
        )
    # DeepSpeed takes the existing process group.
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    return device


def gpu_of(place: Place, *, visible: int) -> int:
    """Return the number of the GPU of a process, among those `visible` on its node.

    Raises:
        UserError: there is no GPU for it.
    """
    if place.launcher == "srun" and visible == 1:
        return 0  # srun --gpus-per-task=1 shows each process only its own GPU
    if place.local_rank >= visible:
        raise UserError(
            f"--device cuda: process {place.local_rank} of this node has no GPU, {visible} are "
            "there; expected one for each process, or --device cpu"
        )
    return place.local_rank


def too_few_processes(environment: Mapping[str, str], *, gpus: int) -> str | None:
    """Return a warning if a single process seems a mistake, with `gpus` visible; else None."""
    tasks = environment.get("SLURM_NTASKS") or "1"
    found = [f"the SLURM job has {tasks} tasks"] if tasks != "1" else []
    found += [f"{gpus} GPUs are visible"] if gpus > 1 else []
    if not found:
        return None
    return (
        f"one process trains alone, though {' and '.join(found)}; to start more: srun esm1b "
        "pretrain ..., or torchrun --nproc-per-node=gpu --no-python esm1b pretrain ..."
    )


def _import_deepspeed(*, has_cuda: bool) -> ModuleType:
    if not has_cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it had to guess
        # Nothing is compiled on CPU, but without this DeepSpeed imports the compiler.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    # On CPU DeepSpeed would compile a shared-memory operator at first use, which takes a compiler
    # and a minute and a half, and leaves a lock if it is killed. Plain gloo needs none.
    __compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed 0.19 calls collectives by names that torch 2.13 deprecates.
    for name in ("all_gather_into_tensor", "reduce_scatter_tensor"):
        warnings.filterwarnings("ignore", message=f".*{name}", category=FutureWarning)
    return cast(ModuleType, deepspeed)


def _connect(
    place: Place, store: Store, backend: str, device: torch.device, limit_seconds: float
) -> None:
    """Make the process group of the processes that have met.

    Raises:
        RunFailure: they cannot reach each other, or one is gone.
    """
    outcome = in_thread(
        lambda: torch.distributed.init_process_group(
            backend,
            store=store,
            rank=place.rank,
            world_size=place.processes,
            timeout=_LONGEST_WAIT,
            device_id=None if device.type == "cpu" else device,  # as DeepSpeed does
        )
    )
    try:
        outcome.result(timeout=limit_seconds)
    except (TimeoutError, RuntimeError) as error:
        reason = f"to the others by {backend}: {one_line(error)}"
        if isinstance(error, TimeoutError):
            reason = (
                f"to all others by {backend} within {limit_seconds:g} s; one is gone, or they try "
                "the wrong network interface"
            )
        message = (
            f"all {place.processes} processes came, but rank {place.rank} on {platform.node()} "
            f"could not connect {reason}"
        )
        _log.error(message)
        raise RunFailure(message) from error
