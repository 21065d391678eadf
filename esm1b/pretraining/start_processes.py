"""Starting the processes of a run together: each on its device, all connected to each other."""

import logging
import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
import torch.distributed
from torch.distributed import Store  # type: ignore[attr-defined]  # not in __all__

from esm1b.errors import RunFailure, Stopped, UserError, one_line
from esm1b.pretraining.distributed.network import VARIABLES
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.distributed.rendezvous import LIMITS, RendezvousLimits, in_thread, meet
from esm1b.pretraining.distributed.reports import Report, exchange
from esm1b.pretraining.distributed.watchdog import TRACES
from esm1b.pretraining.options import Layout

T = TypeVar("T")

_log = logging.getLogger(__name__)

# The wait for a process that is late at a collective unknown to the watchdog.
_LONGEST_WAIT: Final = timedelta(minutes=10)
_TURN_SECONDS: Final = 0.1
# From a request to stop, to connect after all and stop in peace at the first update.
_PATIENCE_SECONDS: Final = 1.0
_WIDTH: Final = 256
# Variables of torch, each with the older names that also set it.
_RECORDING: Final = {
    ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE"): "2000",
    ("TORCH_NCCL_DUMP_ON_TIMEOUT",): "1",
}


def join(
    place: Place,
    layout: Layout,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
    limit_seconds: float = LIMITS.come,
) -> Store | None:
    """Return the store that all processes share, once all of them have come; None for one alone.

    `is_stopped` ends the wait for the others, who have `limit_seconds` to come.

    Raises:
        RunFailure: some processes did not come.
        Stopped: somebody asked to stop before all had come.
    """
    _import_deepspeed(has_cuda=_has_cuda(layout))
    torch.set_num_threads(layout.threads)
    os.environ.update(place.environment())
    if place.processes == 1:
        warn_if_alone(os.environ, gpus=torch.cuda.device_count() if _has_cuda(layout) else 0)
        return None
    limits = RendezvousLimits(come=limit_seconds)
    store = meet(place, is_stopped=is_stopped, limits=limits)
    store.set_timeout(_LONGEST_WAIT)
    return store


def choose_device(place: Place, layout: Layout) -> torch.device:
    """Return the device of a process: the CPU, or its GPU.

    Raises:
        UserError: there is no GPU for it, though the run is to use GPUs.
    """
    if not _has_cuda(layout):
        return torch.device("cpu")
    return torch.device("cuda", gpu_of(place, visible=torch.cuda.device_count()))


def connect(
    place: Place,
    layout: Layout,
    store: Store | None,
    *,
    traces: Path | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
    limit_seconds: float = LIMITS.come,
) -> torch.device:
    """Connect the processes that have joined, and return this process's device. Collective.

    They use gloo on CPU, nccl on CUDA, and compute something together whose result is known.

    Args:
        place: place of this process.
        layout: layout of the run.
        store: store of `join`.
        traces: directory for nccl's records of the last collectives, written where one hangs.
        is_stopped: function that returns whether somebody has asked to stop.
        limit_seconds: longest time for it.

    Raises:
        UserError: there is no GPU for this process, or some processes compute wrongly.
        RunFailure: they could not connect.
        Stopped: somebody asked to stop, and they did not connect soon.
    """
    device = choose_device(place, layout)
    backend = "gloo"
    if device.type == "cuda":
        backend = "nccl"
        # which DeepSpeed takes as the number of the GPU
        os.environ["LOCAL_RANK"] = str(device.index)
        torch.cuda.set_device(device)
        if traces is not None:
            record_collectives(traces)
    make_group = partial(
        torch.distributed.init_process_group, backend, rank=place.rank, world_size=place.processes
    )
    if store is None:
        # A store in memory: nothing listens, so single processes never meet.
        make_group(store=torch.distributed.HashStore())  # type: ignore[attr-defined]  # not in __all__
        wrong = wrong_results(place, device)
    else:
        device_id = device if device.type == "cuda" else None  # as DeepSpeed does

        def connect_and_compute() -> list[str]:
            make_group(store=store, timeout=_LONGEST_WAIT, device_id=device_id)
            return wrong_results(place, device)

        wrong = _within(connect_and_compute, place, backend, is_stopped, limit_seconds)
    exchange("results", Report(problems=wrong), place, store, limit_seconds=limit_seconds)
    # DeepSpeed takes the existing process group.
    _import_deepspeed(has_cuda=device.type == "cuda").init_distributed(
        dist_backend=backend, auto_mpi_discovery=False, verbose=False
    )
    return device


def start_processes(place: Place, layout: Layout, **waiting: Any) -> torch.device:
    """Join, connect, and return this process's device, without comparing the nodes."""
    return connect(place, layout, join(place, layout, **waiting), **waiting)


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


def wrong_results(place: Place, device: torch.device) -> list[str]:
    """Compute what can be known beforehand and return what was wrong. Collective."""
    wrong = []
    total = torch.tensor([float(place.rank + 1)], device=device)
    torch.distributed.all_reduce(total)
    expected = place.processes * (place.processes + 1) / 2
    if total.item() != expected:
        wrong.append(f"{device}: a sum over all processes is {total.item():g}, not {expected:g}")
    if device.type == "cuda":
        # small integers, which every precision of a GPU multiplies and sums exactly
        matrix = (torch.arange(_WIDTH * _WIDTH) % 7 - 3).reshape(_WIDTH, _WIDTH).float()
        product = (matrix.to(device) @ matrix.to(device)).cpu()
        if not torch.equal(product, matrix @ matrix):
            name = torch.cuda.get_device_name(device)
            wrong.append(f"{device} ({name}): a product of matrices is wrong; expected a sound GPU")
    return wrong


def record_collectives(directory: Path) -> None:
    """Have nccl keep its last collectives, and write them where one hangs, unless set already."""
    values = {**_RECORDING, (TRACES, "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"): f"{directory}/nccl-trace-"}
    for names, value in values.items():
        if not any(name in os.environ for name in names):
            os.environ[names[0]] = value


def _has_cuda(layout: Layout) -> bool:
    return layout.device == "cuda" or (layout.device == "auto" and torch.cuda.is_available())


def _within(
    action: Callable[[], T],
    place: Place,
    backend: str,
    is_stopped: Callable[[], bool],
    limit_seconds: float,
) -> T:
    """Return what `action` returns, which connects this process to the others.

    Raises:
        RunFailure: they cannot reach each other, or one is gone.
        Stopped: somebody asked to stop, and it does not end soon.
    """
    outcome = in_thread(action)
    began, asked_at = time.monotonic(), math.inf
    try:
        # The main thread stays free for signals.
        while not wait([outcome], timeout=_TURN_SECONDS).done:
            now = time.monotonic()
            asked_at = min(asked_at, now) if is_stopped() else math.inf
            if now > asked_at + _PATIENCE_SECONDS:
                raise Stopped("asked to while the processes were connecting; nothing was trained")
            if now > began + limit_seconds:
                raise TimeoutError
        return outcome.result()
    except (TimeoutError, RuntimeError) as error:
        reason = f"to the others by {backend}: {one_line(error)}"
        if isinstance(error, TimeoutError):
            reason = f"to all others by {backend} within {limit_seconds:g} s; one may be gone"
        message = (
            f"all {place.processes} processes came, but rank {place.rank} on {platform.node()} "
            f"could not connect {reason}; {VARIABLES}"
        )
        _log.error(message)
        raise RunFailure(message) from error
