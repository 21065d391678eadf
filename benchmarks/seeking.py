"""Start of training at any update of a corpus of 60 million sequences.

Lengths are random, log-normal around UniRef50's mean, so no corpus is needed. The seconds run from
the lengths in memory to the first update's sequences; drawing the lengths does not count. Memory is
that of the whole process, the lengths (four bytes per sequence) and Python included.
"""

import argparse
from time import perf_counter, process_time
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import peak_memory_bytes, resident_memory_bytes
from benchmarks.uniref_text import UNIREF50_SEQUENCES, draw_lengths
from esm1b.batches.order import SequenceOrder

_DRAWN_AT_ONCE: Final = 1 << 18


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument(
        "--sequences", type=int, default=UNIREF50_SEQUENCES, help="sequences in the corpus"
    )
    parser.add_argument(
        "--update", type=int, default=0, help="first update of training, counted from 0"
    )
    parser.add_argument(
        "--tokens-per-update", type=int, default=131_072, help="tokens of an update"
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return time and memory of a start; memory in MB of 1e6 bytes."""
    lengths = _lengths(options.sequences, options.seed)
    memory_before = resident_memory_bytes()
    started, cpu_started = perf_counter(), process_time()
    order = SequenceOrder(
        lengths,
        crop_residues=1022,
        tokens_per_update=options.tokens_per_update,
        seed=options.seed,
    )
    members = order.update(options.update)
    seconds, cpu_seconds = perf_counter() - started, process_time() - cpu_started
    started = perf_counter()
    order.update(options.update + 1)
    return {
        "sequences": options.sequences,
        "update": options.update,
        "epoch": round(order.epoch_at(options.update), 3),
        "sequences_of_the_update": len(members.sequences),
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "seconds_of_the_next_update": round(perf_counter() - started, 5),
        "memory_with_lengths_mb": round(memory_before / 1e6, 1),
        "peak_memory_mb": round(peak_memory_bytes() / 1e6, 1),
    }


def _lengths(sequences: int, seed: int) -> NDArray[np.int32]:
    random = np.random.default_rng(seed)
    lengths = np.empty(sequences, dtype=np.int32)
    for start in range(0, sequences, _DRAWN_AT_ONCE):
        part = lengths[start : start + _DRAWN_AT_ONCE]
        part[:] = draw_lengths(random, len(part))
    return lengths
