"""Starting the processes of a run together: each on its device, all connected to each other."""

import logging
import os
import platform
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, Final

import torch
import torch.distributed

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
    device, backend, variables = torch.device("cpu"), "gloo", place.environment()
    if has_cuda:
        gpu = gpu_of(place, visible=gpus)
        device, backend = torch.device("cuda", gpu), "nccl"
        variables["LOCAL_RANK"] = str(gpu)  # which DeepSpeed takes as the number of the GPU
    deepspeed = _import_deepspeed(has_cuda=has_cuda)
    torch.set_num_threads(layout.threads)
    os.environ.update(variables)
    if has_cuda:
        torch.cuda.set_device(device)
    make_group = partial(
        torch.distributed.init_process_group, backend, rank=place.rank, world_size=place.processes
    )
    if place.processes > 1:
        limits = RendezvousLimits(come=limit_seconds)
        store = meet(place, is_stopped=is_stopped, limits=limits)
        store.set_timeout(_LONGEST_WAIT)
        device_id = device if has_cuda else None  # as DeepSpeed does
        connect = partial(make_group, store=store, timeout=_LONGEST_WAIT, device_id=device_id)
        _connect(connect, place, backend, limit_seconds)
    else:
        warn_if_alone(os.environ, gpus=gpus)
        # A store in memory: nothing listens, so single processes never meet.
        make_group(store=torch.distributed.HashStore())  # type: ignore[attr-defined]  # not in __all__
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


def warn_if_alone(environment: Mapping[str, str], *, gpus: int) -> None:
    """Warn if a single process seems a mistake, with `gpus` visible."""
    tasks = environment.get("SLURM_NTASKS") or "1"
    found = [f"the SLURM job has {tasks} tasks"] if tasks != "1" else []
    found += [f"{gpus} GPUs are visible"] if gpus > 1 else []
    if found:
        _log.warning(
            f"one process trains alone, though {' and '.join(found)}; to start more: srun esm1b "
            "pretrain ..., or torchrun --nproc-per-node=gpu --no-python esm1b pretrain ..."
        )


def _import_deepspeed(*, has_cuda: bool) -> Any:
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
    return deepspeed


def _connect(connect: Callable[[], None], place: Place, backend: str, limit_seconds: float) -> None:
    """Make the process group of the processes that have met, by `connect`.

    Raises:
        RunFailure: they cannot reach each other, or one is gone.
    """
    try:
        in_thread(connect).result(timeout=limit_seconds)
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
