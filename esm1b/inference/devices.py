"""A model in several processes, one for each GPU, or sharing the cores of a machine without."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import torch

from esm1b.errors import UserError
from esm1b.inference.model import Device, Model, Precision, load_model
from esm1b.worker_pool import WorkerPool, start_workers

# Intel's library sums a small product in as many parts as there are threads, unless told to be
# strict (MKL's developer guide, "Reproducibility Conditions"): 128 x 1280 times 1280 x 320 in
# float32 had other last bits with one thread than with two. It reads this at its first product.
_SAME_SUMS: Final = ("MKL_CBWR", "AUTO,STRICT")
os.environ.setdefault(*_SAME_SUMS)


@contextmanager
def load_on_devices(
    path: Path, devices: int | str, *, device: Device = "auto", precision: Precision = "fp32"
) -> Iterator[WorkerPool[Model]]:
    """Yield processes that each hold the model of a directory, within the block.

    Processes on a CPU divide the threads of this one. In float32 their number does not change the
    results; in bf16 on a CPU the last bits depend on the threads of a process.

    Args:
        path: model directory.
        devices: number of processes, or "all": one for each GPU, and one on a CPU. A single one is
            this process.
        device: kind of device; "auto" is CUDA where it is available.
        precision: precision of the network.

    Raises:
        UserError: there are fewer GPUs, or the model cannot be loaded.
    """
    count = _count(devices, device)
    with start_workers(partial(_load, path, count, device, precision), count) as pool:
        yield pool


def _count(devices: int | str, device: Device) -> int:
    """Return the number of processes."""
    text = str(devices)
    if text != "all" and not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UserError(f"devices: {text!r}; expected a number from 1 on, or all")
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if text == "all":
        return max(1, gpus)
    if int(text) > 1 and (device == "mps" or 0 < gpus < int(text)):
        there, what = (1, "MPS device") if device == "mps" else (gpus, "CUDA devices")
        raise UserError(f"devices: {text}, but PyTorch finds {there} {what}; expected all")
    return int(text)


def _load(path: Path, count: int, device: Device, precision: Precision, number: int) -> Model:
    """Load the model in the process `number` of `count`."""
    if count > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // count))
        if device != "cpu" and torch.cuda.is_available():
            torch.cuda.set_device(number)
    return load_model(path, device=device, precision=precision)
