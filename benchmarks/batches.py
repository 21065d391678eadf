"""Batches ready to train on, compared with `transformers` and `datasets`, on one core.

- `stream`, as the trainer runs it: the order of an update, its division into micro-batches,
  reading memory-mapped shards, cropping, framing, replacing rare residues, masking, int64 arrays;
- `transformers`: EsmTokenizer and DataCollatorForLanguageModeling on strings in memory, in random
  order, padded to the longest of a batch;
- `datasets`: the same collator fed by Hugging Face's `datasets`, which streams Parquet shards,
  shuffles in a buffer of 10,000, and tokenizes. If `datasets` is not installed, this side is left
  out and the result says so.

The sides run one after the other, each in its own process on the same core. The first batch, which
opens files and fills buffers, does not count. Rates are in millions of tokens, special tokens
included, padding excluded.

The result includes `seeking`: the start of training at the first update and at a late one, with as
many sequences as UniRef50 has, each in its own process.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, Final

import numpy as np

from benchmarks.corpus import (
    add_corpus_options,
    esm_tokenizer,
    training_sequences,
    write_corpus,
)
from benchmarks.machine import describe_machine
from benchmarks.uniref_text import UNIREF50_SEQUENCES
from esm1b.batches.micro_batch import BatchRecipe
from esm1b.batches.order import SequenceOrder
from esm1b.batches.stream import UpdateStream
from esm1b.corpus.tokens.dataset import open_tokens
from esm1b.corpus.tokens.tokenize import tokenize

_TOKENS_PER_UPDATE: Final = 131_072
_RECIPE: Final = BatchRecipe(crop_residues=1022, append_eos=True, rare_residues="replace", seed=1)
_WIDTH: Final = 1280
_PEER_BATCH: Final = 16
_CROPPED: Final = {"truncation": True, "max_length": _RECIPE.maximum_tokens}
_SHUFFLE_BUFFER: Final = 10_000


@dataclass(frozen=True, kw_only=True)
class _Output:
    """Tokens that a side prepared in a pass, and the time."""

    tokens: int
    padded_tokens: int
    seconds: float
    cpu_seconds: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_corpus_options(parser)
    parser.add_argument("--core", type=int, help="processor core (default: the first allowed one)")
    parser.add_argument("--passes", type=int, default=3, help="runs of each side")
    parser.add_argument(
        "--updates", type=int, default=200, help="updates of 131,072 tokens in each run of `stream`"
    )
    parser.add_argument(
        "--micro-batch-tokens",
        type=int,
        nargs="+",
        default=[4096, 16_384, 65_536],
        help="tokens of a micro-batch of `stream`; several make several sides",
    )
    parser.add_argument(
        "--peer-batches",
        type=int,
        default=200,
        help="batches of 16 sequences in each run of the other sides",
    )
    parser.add_argument(
        "--sequences",
        type=int,
        default=UNIREF50_SEQUENCES,
        help="number of random sequences in `seeking`",
    )
    parser.add_argument(
        "--late-update", type=int, default=500_000, help="late first update in `seeking`"
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all sides and return the result."""
    core = min(os.sched_getaffinity(0)) if options.core is None else options.core
    machine = describe_machine(threads=1)
    has_datasets = find_spec("datasets") is not None
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        corpus, description = write_corpus(Path(name), options)
        tokens = Path(name) / "tokens"
        tokenize(corpus, tokens, workers=2)
        sides: dict[str, Callable[[int], _Output]] = {
            f"stream, micro-batches of {size}": partial(_stream, tokens, options.updates, size)
            for size in options.micro_batch_tokens
        }
        sides["transformers"] = partial(_transformers, corpus, options.peer_batches, options.seed)
        if has_datasets:
            sides["datasets"] = partial(_datasets, corpus, options.peer_batches, options.seed)
        outputs: dict[str, list[_Output]] = {side: [] for side in sides}
        for number in range(options.passes):
            for side, prepare in sides.items():
                outputs[side].append(_alone(core, prepare, number))
    peers = [side for side in sides if side in ("transformers", "datasets")]
    return {
        "benchmark": "batches ready to train; rates in millions of tokens without padding",
        "machine": machine,
        "core": core,
        "corpus": description,
        "order": "sides one after the other, each pass in a process of its own on the same core",
        "datasets": metadata.version("datasets")
        if has_datasets
        else "not installed; side left out",
        "sides": {side: _summary(passes) for side, passes in outputs.items()},
        "ratios": {
            f"{side} / {peer}": _ratio(outputs[side], outputs[peer])
            for side in sides
            if side not in peers
            for peer in peers
        },
        "seeking": [
            _seek(options.sequences, update, options.seed) for update in (0, options.late_update)
        ],
    }


def _alone(core: int, prepare: Callable[[int], _Output], number: int) -> _Output:
    """Call `prepare(number)` in a new process pinned to one core."""
    with ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), os.sched_setaffinity, (0, {core})
    ) as pool:
        return pool.submit(prepare, number).result()


def _stream(directory: Path, updates: int, micro_batch_tokens: int, number: int) -> _Output:
    dataset = open_tokens(directory, "train")
    order = SequenceOrder(
        dataset.lengths,
        crop_residues=_RECIPE.crop_residues,
        tokens_per_update=_TOKENS_PER_UPDATE,
        seed=1,
    )
    stream = UpdateStream(
        dataset,
        order,
        _RECIPE,
        micro_batch_tokens=micro_batch_tokens,
        width=_WIDTH,
        rank=0,
        processes=1,
        workers=0,
    )
    first = number * updates  # different sequences in each pass, if the corpus is large enough
    stream.update(first)
    started, cpu_started = perf_counter(), process_time()
    tokens = sum(
        len(batch.tokens)
        for batches in stream.updates(first + 1, first + 1 + updates)
        for batch in batches
    )
    return _Output(
        tokens=tokens,
        padded_tokens=tokens,
        seconds=perf_counter() - started,
        cpu_seconds=process_time() - cpu_started,
    )


def _transformers(corpus: Path, batches: int, seed: int, number: int) -> _Output:
    count = (batches + 1) * _PEER_BATCH
    strings = list(islice(training_sequences(corpus), count * 4))
    chosen = np.random.default_rng([seed, number]).permutation(len(strings))[:count]
    tokenizer = esm_tokenizer()
    return _collated((tokenizer(strings[index], **_CROPPED) for index in chosen), batches)


def _datasets(corpus: Path, batches: int, seed: int, number: int) -> _Output:
    tokenizer = esm_tokenizer()
    stream = import_module("datasets").load_dataset(  # by name: type checking must pass without it
        "parquet",
        data_files=[str(path) for path in sorted((corpus / "train").glob("*.parquet"))],
        columns=["sequence"],
        split="train",
        streaming=True,
    )
    stream = stream.shuffle(seed=seed + number, buffer_size=_SHUFFLE_BUFFER)
    stream = stream.map(
        lambda rows: tokenizer(rows["sequence"], **_CROPPED),
        batched=True,
        batch_size=_PEER_BATCH,
        remove_columns=["sequence"],
    )
    return _collated(iter(stream), batches)


def _collated(rows: Iterator[Any], batches: int) -> _Output:
    """Mask and pad `batches` batches of `rows`, timed after an untimed first one."""
    import torch
    from transformers import DataCollatorForLanguageModeling

    torch.set_num_threads(1)
    collate = DataCollatorForLanguageModeling(esm_tokenizer(), mlm_probability=0.15)
    collate([next(rows) for _ in range(_PEER_BATCH)])
    tokens = padded_tokens = 0
    started, cpu_started = perf_counter(), process_time()
    for _ in range(batches):
        batch = collate([next(rows) for _ in range(_PEER_BATCH)])
        tokens += int(batch["attention_mask"].sum())
        padded_tokens += batch["input_ids"].numel()
    return _Output(
        tokens=tokens,
        padded_tokens=padded_tokens,
        seconds=perf_counter() - started,
        cpu_seconds=process_time() - cpu_started,
    )


def _seek(sequences: int, update: int, seed: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks", "seeking", f"--sequences={sequences}"]
    command += [f"--update={update}", f"--tokens-per-update={_TOKENS_PER_UPDATE}", f"--seed={seed}"]
    result: dict[str, Any] = json.loads(subprocess.check_output(command))
    return result


def _summary(passes: Sequence[_Output]) -> dict[str, Any]:
    return {
        "million_tokens_per_second": _rate(passes, lambda output: output.seconds),
        "million_tokens_per_cpu_second": _rate(passes, lambda output: output.cpu_seconds),
        "tokens_by_pass": [output.tokens for output in passes],
        "padded_tokens_by_pass": [output.padded_tokens for output in passes],
        "seconds_by_pass": [round(output.seconds, 3) for output in passes],
        "cpu_seconds_by_pass": [round(output.cpu_seconds, 3) for output in passes],
    }


def _rate(passes: Sequence[_Output], seconds: Callable[[_Output], float]) -> float:
    return round(median(output.tokens / 1e6 / seconds(output) for output in passes), 3)


def _ratio(ours: Sequence[_Output], theirs: Sequence[_Output]) -> dict[str, float]:
    """Return our tokens per second divided by theirs, over the passes."""
    pairs = list(zip(ours, theirs, strict=True))
    times = [a.tokens / a.seconds * b.seconds / b.tokens for a, b in pairs]
    cpu_times = [a.tokens / a.cpu_seconds * b.cpu_seconds / b.tokens for a, b in pairs]
    return {
        "time": round(median(times), 1),
        "lowest_time": round(min(times), 1),
        "highest_time": round(max(times), 1),
        "cpu_time": round(median(cpu_times), 1),
    }
