"""Start at an update of a corpus of 60 million sequences, in a process with nothing else in it.

Lengths are drawn, log-normal around UniRef50's mean, so no corpus is needed. The seconds are from
the lengths in memory to the first update's sequences; drawing them does not count. The memory is
that of the whole process, the lengths (four bytes for each sequence) and Python included.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from esm1b.batches.order import SequenceOrder

# UniRef50 and its lengths, as in `benchmarks.proteins`
UNIREF50_SEQUENCES: Final = 60_315_044
_MEAN_LENGTH: Final = 286.5
_LOG_SPREAD: Final = 0.70
_LENGTHS: Final = (11, 35_213)
_DRAWN_AT_ONCE: Final = 1 << 18


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure once and print the result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks seeking",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sequences", type=int, default=UNIREF50_SEQUENCES)
    parser.add_argument("--update", type=int, default=0, help="to start at, counted from 0")
    parser.add_argument("--tokens-per-update", type=int, default=131_072)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    print(
        json.dumps(
            seek(options.sequences, options.update, options.tokens_per_update, options.seed),
            indent=2,
        )
    )


def seek(sequences: int, update: int, tokens_per_update: int, seed: int) -> dict[str, Any]:
    """Return what starting at `update` takes; memory in MB of 1e6 bytes."""
    lengths = _drawn_lengths(sequences, seed)
    memory_before = _memory_mb("VmRSS")
    started, cpu_started = perf_counter(), process_time()
    order = SequenceOrder(
        lengths, crop_residues=1022, tokens_per_update=tokens_per_update, seed=seed
    )
    held = order.update(update)
    seconds, cpu_seconds = perf_counter() - started, process_time() - cpu_started
    started = perf_counter()
    order.update(update + 1)
    return {
        "sequences": sequences,
        "update": update,
        "epoch": round(order.epoch_at(update), 3),
        "sequences_of_the_update": len(held.sequences),
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "seconds_of_the_next_update": round(perf_counter() - started, 5),
        "memory_with_lengths_mb": memory_before,
        "peak_memory_mb": _memory_mb("VmHWM"),
    }


def _drawn_lengths(sequences: int, seed: int) -> NDArray[np.int32]:
    draw = np.random.default_rng(seed)
    centre = np.log(_MEAN_LENGTH) - _LOG_SPREAD**2 / 2
    lengths = np.empty(sequences, dtype=np.int32)
    for start in range(0, sequences, _DRAWN_AT_ONCE):
        part = lengths[start : start + _DRAWN_AT_ONCE]
        part[:] = np.clip(draw.lognormal(centre, _LOG_SPREAD, size=len(part)), *_LENGTHS)
    return lengths


def _memory_mb(field: str) -> float:
    """Return a field of Linux's /proc/self/status; `benchmarks.machine` would load torch."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return round(int(lines[field].removesuffix("kB")) * 1024 / 1e6, 1)


if __name__ == "__main__":
    main()
