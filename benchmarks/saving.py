"""Save a checkpoint as a run does when it is asked to stop, and load it, beside what `dd` writes.

One process on the CPU, so it writes all three files itself; in a run each writes its share. `dd`
copies the same files on the same disk and syncs them (`conv=fsync`). A pass saves, copies, loads.
"""

import argparse
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
import torch.distributed

from benchmarks.command import run_command
from benchmarks.machine import describe_machine, peak_memory_bytes
from esm1b.config import PretrainingConfig
from esm1b.model.encoder import Encoder, initialise
from esm1b.model.shape import EncoderShape
from esm1b.pretraining.checkpoints import checkpoint
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.engine.deepspeed_engine import Engine
from esm1b.pretraining.options import Layout
from esm1b.pretraining.start_processes import start_processes


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write or print the result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks saving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--directory", type=Path, help="on the disk to measure; default: /tmp")
    parser.add_argument("--output", type=Path, help="JSON file to write; default: print")
    parser.add_argument("--layers", type=int, default=33)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--heads", type=int, default=20)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--seed", type=int, default=1)
    run_command(parser, arguments, _measured)


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    machine = describe_machine(options.threads)
    with ExitStack() as held:
        temporary = held.enter_context(tempfile.TemporaryDirectory(dir=options.directory))
        layout = Layout(device="cpu", threads=options.threads)
        start_processes(Place(), layout)
        held.callback(torch.distributed.destroy_process_group)
        shape = EncoderShape(
            layers=options.layers,
            width=options.width,
            heads=options.heads,
            feed_forward=4 * options.width,
        )
        encoder = Encoder(shape)
        initialise(encoder, options.seed)
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
    """Return the bytes of a checkpoint, and the seconds to save, to copy and to load it."""
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


if __name__ == "__main__":
    main()
