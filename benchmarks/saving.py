"""Saving a checkpoint behind the updates, compared with waiting for it and with `dd`.

A single process on the CPU trains and writes all three files; in a run each process writes its
share. In the foreground a save is waited for, as when a run is asked to stop. In the background
updates go on until the files are written. `dd` copies the files on the same disk and syncs them
(`conv=fsync`). Each pass saves in both ways, copies and loads.
"""

import argparse
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch
import torch.distributed
from torch import nn

from benchmarks.machine import describe_machine, peak_memory_bytes
from benchmarks.network import add_network_options, initial_encoder
from esm1b.alphabet import CLS, EOS, encode
from esm1b.batches.micro_batch import MicroBatch
from esm1b.config import PretrainingConfig
from esm1b.freed_memory import give_back_freed_memory
from esm1b.pretraining.checkpoints.checkpoint import load_newest
from esm1b.pretraining.checkpoints.files import checkpoint_path, remove
from esm1b.pretraining.checkpoints.save import Save
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.engine.deepspeed_engine import Engine
from esm1b.pretraining.losses import masked_losses
from esm1b.pretraining.options import Layout
from esm1b.pretraining.start_processes import start_processes

_UNDISTURBED: Final = 2


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument(
        "--directory", type=Path, help="directory on the disk to measure (default: /tmp)"
    )
    add_network_options(parser, layers=33, width=1280, heads=20)
    parser.add_argument("--passes", type=int, default=3, help="number of passes")
    parser.add_argument("--tokens", type=int, default=256, help="number of tokens in an update")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return times, rates and ratios of saving in both ways, `dd` and loading."""
    machine = describe_machine(options.threads)
    with ExitStack() as held:
        temporary = held.enter_context(tempfile.TemporaryDirectory(dir=options.directory))
        layout = Layout(device="cpu", threads=options.threads, zero_stage=0)
        start_processes(Place(), layout)
        held.callback(torch.distributed.destroy_process_group)
        recipe = PretrainingConfig(precision="fp32")
        engine = Engine(initial_encoder(options), recipe, layout, torch.device("cpu"))
        batch = _batch(options.tokens)
        _update(engine, batch)
        passes = [_pass(engine, batch, Path(temporary)) for _ in range(options.passes)]
    size = passes[0][0]
    seconds = {name: [one[name] for _, one in passes] for name in passes[0][1]}
    ratios = {
        "background_over_foreground": ("background", "foreground"),
        "foreground_over_dd": ("foreground", "dd"),
        "update_while_saving_over_undisturbed": ("update_while_saving", "update"),
    }
    return {
        "machine": machine,
        "parameters": sum(shape.numel() for shape in engine.shapes.values()),
        "checkpoint_bytes": size,
        "megabytes_per_second_by_pass": {
            name: [round(size / each / 1e6, 1) for each in seconds[name]]
            for name in ("foreground", "background", "dd", "load")
        },
        "seconds_by_pass": {name: [round(s, 2) for s in each] for name, each in seconds.items()},
        **{
            name: round(median(a / b for a, b in zip(seconds[up], seconds[down], strict=True)), 2)
            for name, (up, down) in ratios.items()
        },
        "peak_memory_mib": round(peak_memory_bytes() / 2**20),
    }


def _batch(tokens: int) -> MicroBatch:
    """Return one protein of so many tokens, with one position masked."""
    sequence = np.array([CLS, *encode("M" * (tokens - 2)), EOS], dtype=np.int64)
    return MicroBatch(
        tokens=sequence,
        lengths=np.array([tokens]),
        masked_positions=np.array([1]),
        targets=sequence[[1]],
    )


def _update(engine: Engine, batch: MicroBatch) -> float:
    """Do an update by torch alone and return for how many seconds it waited for a save's copies.

    DeepSpeed's update, which waits in the same place, takes two more copies of the gradient.
    """
    network = engine.network.module
    assert isinstance(network, nn.Module)
    torch.autograd.backward(masked_losses(network, batch, engine.device, None).loss)
    began = perf_counter()
    engine._copied.wait()
    seconds = perf_counter() - began
    for group in engine._adam.param_groups:
        group["lr"] = 1e-6
    engine._adam.step()
    engine._adam.zero_grad()
    return seconds


def _pass(engine: Engine, batch: MicroBatch, directory: Path) -> tuple[int, dict[str, float]]:
    """Return the bytes of a checkpoint, and seconds by name.

    `stall` is how long updates wait for a save in the background: until it has begun, until the
    state is copied, and until it is committed. `background` is how long that save takes from its
    beginning until it counts, without the wait for the end of an update.
    """
    seconds = {}
    begin = partial(Save.begin, directory, engine, updates=1, skipped=[], place=Place())
    path = checkpoint_path(directory, 1)
    seconds["foreground"] = _seconds(lambda: begin().commit())
    size = sum(file.stat().st_size for file in path.iterdir())
    copy = directory / "copy"
    seconds["dd"] = 0.0
    for file in path.iterdir():
        command = ["dd", f"if={file}", f"of={copy}", "bs=16M", "conv=fsync", "status=none"]
        seconds["dd"] += _seconds(partial(subprocess.run, command, check=True))
    copy.unlink()
    seconds["load"] = _seconds(lambda: load_newest(directory, engine, place=Place()))
    remove(path)
    give_back_freed_memory()  # as a run does when it logs

    seconds["update"] = _seconds(lambda: [_update(engine, batch) for _ in range(_UNDISTURBED)])
    seconds["update"] /= _UNDISTURBED
    began = perf_counter()
    save = begin()
    seconds["stall"] = perf_counter() - began
    began, updates = perf_counter(), 0
    while not updates or not save.is_written():
        seconds["stall"] += _update(engine, batch)
        updates += 1
    seconds["update_while_saving"] = (perf_counter() - began) / updates
    began = perf_counter()
    seconds["background"] = save.commit()
    seconds["stall"] += perf_counter() - began
    remove(path)
    return size, seconds


def _seconds(action: Callable[[], object]) -> float:
    began = perf_counter()
    action()
    return perf_counter() - began
