"""Saving and loading a checkpoint, compared with `dd` on the same files.

A checkpoint is saved as when a run is asked to stop. A single process on the CPU writes all three
files; in a run each process writes its share. `dd` copies the files on the same disk and syncs them
(`conv=fsync`). Each pass saves, copies and loads.
"""

import argparse
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
import torch.distributed

from benchmarks.machine import describe_machine, peak_memory_bytes
from benchmarks.network import add_network_options, initial_encoder
from esm1b.config import PretrainingConfig
from esm1b.pretraining.checkpoints import checkpoint
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.engine.deepspeed_engine import Engine
from esm1b.pretraining.options import Layout
from esm1b.pretraining.start_processes import start_processes


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument(
        "--directory", type=Path, help="directory on the disk to measure (default: /tmp)"
    )
    add_network_options(parser, layers=33, width=1280, heads=20)
    parser.add_argument("--passes", type=int, default=3, help="number of passes")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return rates and ratios of saving, `dd` and loading."""
    machine = describe_machine(options.threads)
    with ExitStack() as held:
        temporary = held.enter_context(tempfile.TemporaryDirectory(dir=options.directory))
        layout = Layout(device="cpu", threads=options.threads)
        start_processes(Place(), layout)
        held.callback(torch.distributed.destroy_process_group)
        encoder = initial_encoder(options)
        engine = Engine(encoder, PretrainingConfig(), layout, torch.device("cpu"))
        passes = [_pass(engine, Path(temporary), number + 1) for number in range(options.passes)]
    rates = {
        name: [round(size / one[name] / 1e6, 1) for size, one in passes]
        for name in ("save", "dd", "load")
    }
    return {
        "machine": machine,
        "parameters": sum(shape.numel() for shape in engine.shapes.values()),
        "checkpoint_bytes": passes[0][0],
        "megabytes_per_second_by_pass": rates,
        "seconds_by_pass": {
            name: [round(one[name], 2) for _, one in passes] for name in ("save", "dd", "load")
        },
        "save_over_dd": round(median(one["save"] / one["dd"] for _, one in passes), 2),
        "peak_memory_mib": round(peak_memory_bytes() / 2**20),
    }


def _pass(engine: Engine, directory: Path, updates: int) -> tuple[int, dict[str, float]]:
    """Return the bytes of a checkpoint and the seconds to save, copy and load it."""
    started = perf_counter()
    path = checkpoint.save(directory, engine, updates=updates, skipped=[], place=Place())
    seconds = {"save": perf_counter() - started}
    files = list(path.iterdir())
    copy = directory / "copy"
    started = perf_counter()
    for file in files:
        command = ["dd", f"if={file}", f"of={copy}", "bs=16M", "conv=fsync", "status=none"]
        subprocess.run(command, check=True)
    seconds["dd"] = perf_counter() - started
    copy.unlink()
    started = perf_counter()
    checkpoint.load_newest(directory, engine, place=Place())
    seconds["load"] = perf_counter() - started
    size = sum(file.stat().st_size for file in files)
    for file in files:
        file.unlink()
    path.rmdir()
    return size, seconds
