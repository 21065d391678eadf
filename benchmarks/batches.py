"""Batches ready to train, from random sequences of memory-mapped shards, on one core.

`stream` is what the trainer runs: the order of an update, sharing it out, reading, cropping,
framing, merging rare residues, masking, int64 arrays. `transformers` is EsmTokenizer and
DataCollatorForLanguageModeling on strings in memory, in random order, padded to the longest of a
batch. `datasets` is the same fed by Hugging Face's `datasets`: Parquet shards streamed, shuffled in
a buffer of 10,000, tokenised. `datasets` is no dependency of this project; where it is not
installed, its side is left out and the result says so. Each side is a process of its own on the
same core, one after the other; its first batch, which opens files and fills buffers, does not
count. Rates are in millions of tokens, special tokens counted, padding not.

Beside it, what it takes to start at the first update and at a late one, of as many sequences as
UniRef50 has (`benchmarks.seeking`), also in processes of their own.
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
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq

from benchmarks.command import run_command
from benchmarks.machine import describe_machine
from benchmarks.seeking import UNIREF50_SEQUENCES
from benchmarks.uniref_text import write_uniref
from esm1b.alphabet import TOKENS
from esm1b.batches.micro_batch import BatchRecipe
from esm1b.batches.order import SequenceOrder
from esm1b.batches.stream import UpdateStream
from esm1b.corpus.sharding.shard import shard
from esm1b.corpus.tokens.dataset import open_tokens
from esm1b.corpus.tokens.tokenize import tokenize

_TOKENS_PER_UPDATE: Final = 131_072
_RECIPE: Final = BatchRecipe(crop_residues=1022, append_eos=True, rare_residues="replace", seed=1)
_WIDTH: Final = 1280
_PEER_BATCH: Final = 16
_CROPPED: Final = {"truncation": True, "max_length": _RECIPE.maximum_tokens}
_SHUFFLE_BUFFER: Final = 10_000


@dataclass(frozen=True, kw_only=True)
class _Made:
    """What a side made and what that took."""

    tokens: int
    padded_tokens: int
    seconds: float
    cpu_seconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks batches",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--megabytes", type=float, default=500, help="of FASTA to make the corpus")
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--core", type=int, help="to run on; default: the first that is allowed")
    parser.add_argument("--passes", type=int, default=3, help="of all sides")
    parser.add_argument("--updates", type=int, default=200, help="of 131,072 tokens, in each pass")
    parser.add_argument(
        "--micro-batch-tokens", type=int, nargs="+", default=[4096, 16_384, 65_536], metavar="N"
    )
    parser.add_argument(
        "--peer-batches", type=int, default=200, help="of 16 sequences, in each pass"
    )
    parser.add_argument(
        "--sequences", type=int, default=UNIREF50_SEQUENCES, help="to start and seek in; drawn"
    )
    parser.add_argument("--late-update", type=int, default=500_000, help="to seek")
    parser.add_argument("--folder", type=Path, help="for all files; default: temporary")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON file to write; default: print")
    run_command(parser, arguments, _measured)


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    core = min(os.sched_getaffinity(0)) if options.core is None else options.core
    machine = describe_machine(threads=1)
    has_datasets = find_spec("datasets") is not None
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        corpus, tokens = Path(name) / "corpus", Path(name) / "tokens"
        fasta = Path(name) / "uniref50.fasta.gz"
        write_uniref(fasta, round(options.megabytes * 1e6), seed=options.seed)
        manifest = shard([str(fasta)], corpus, shards=options.shards, workers=2)
        fasta.unlink()
        tokenize(corpus, tokens, workers=2)
        sides: dict[str, Callable[[int], _Made]] = {
            f"stream, micro-batches of {size}": partial(_stream, tokens, options.updates, size)
            for size in options.micro_batch_tokens
        }
        sides["transformers"] = partial(_transformers, corpus, options.peer_batches, options.seed)
        if has_datasets:
            sides["datasets"] = partial(_datasets, corpus, options.peer_batches, options.seed)
        made: dict[str, list[_Made]] = {side: [] for side in sides}
        for number in range(options.passes):
            for side, make in sides.items():
                made[side].append(_alone(core, make, number))
    peers = [side for side in sides if side in ("transformers", "datasets")]
    return {
        "benchmark": "batches ready to train; rates in millions of tokens without padding",
        "machine": machine,
        "core": core,
        "corpus": {
            "source": "drawn",
            "seed": options.seed,
            "sequences": sum(manifest["sequences"].values()),
            "residues": sum(manifest["residues"].values()),
            "shards": options.shards,
        },
        "order": "sides one after the other, each pass in a process of its own on the same core",
        "datasets": metadata.version("datasets")
        if has_datasets
        else "not installed; side left out",
        "sides": {side: _summary(passes) for side, passes in made.items()},
        "ratios": {
            f"{side} / {peer}": _ratio(made[side], made[peer])
            for side in sides
            if side not in peers
            for peer in peers
        },
        "seeking": [
            _seek(options.sequences, update, options.seed) for update in (0, options.late_update)
        ],
    }


def _alone(core: int, make: Callable[[int], _Made], number: int) -> _Made:
    """Return what `make(number)` returns in a new process that stays on one core."""
    with ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), os.sched_setaffinity, (0, {core})
    ) as pool:
        return pool.submit(make, number).result()


def _stream(directory: Path, updates: int, micro_batch_tokens: int, number: int) -> _Made:
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
    first = number * updates  # other sequences in each pass, as far as the corpus goes
    stream.update(first)
    started, cpu_started = perf_counter(), process_time()
    tokens = sum(
        len(batch.tokens)
        for batches in stream.updates(first + 1, first + 1 + updates)
        for batch in batches
    )
    return _Made(
        tokens=tokens,
        padded_tokens=tokens,
        seconds=perf_counter() - started,
        cpu_seconds=process_time() - cpu_started,
    )


def _transformers(corpus: Path, batches: int, seed: int, number: int) -> _Made:
    count = (batches + 1) * _PEER_BATCH
    strings = list(_sequences(corpus, count * 4))
    chosen = np.random.default_rng([seed, number]).permutation(len(strings))[:count]
    tokenizer = _tokenizer()
    return _collated((tokenizer(strings[index], **_CROPPED) for index in chosen), batches)


def _datasets(corpus: Path, batches: int, seed: int, number: int) -> _Made:
    tokenizer = _tokenizer()
    stream = import_module("datasets").load_dataset(  # a name that type checking need not know
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


def _tokenizer() -> Any:
    from transformers import EsmTokenizer

    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.txt"
        vocabulary.write_text("\n".join(TOKENS))
        return EsmTokenizer(str(vocabulary))


def _collated(rows: Iterator[Any], batches: int) -> _Made:
    """Return what masking and padding `batches` batches of `rows` takes, after a first one."""
    import torch
    from transformers import DataCollatorForLanguageModeling

    torch.set_num_threads(1)
    collate = DataCollatorForLanguageModeling(_tokenizer(), mlm_probability=0.15)
    collate([next(rows) for _ in range(_PEER_BATCH)])
    tokens = padded_tokens = 0
    started, cpu_started = perf_counter(), process_time()
    for _ in range(batches):
        batch = collate([next(rows) for _ in range(_PEER_BATCH)])
        tokens += int(batch["attention_mask"].sum())
        padded_tokens += batch["input_ids"].numel()
    return _Made(
        tokens=tokens,
        padded_tokens=padded_tokens,
        seconds=perf_counter() - started,
        cpu_seconds=process_time() - cpu_started,
    )


def _sequences(corpus: Path, count: int) -> Iterator[str]:
    """Yield the first `count` training sequences, or all there are."""
    for path in sorted((corpus / "train").glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(columns=["sequence"]):
            for sequence in batch.column(0).to_pylist():
                if count == 0:
                    return
                count -= 1
                yield sequence


def _seek(sequences: int, update: int, seed: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.seeking", f"--sequences={sequences}"]
    command += [f"--update={update}", f"--tokens-per-update={_TOKENS_PER_UPDATE}", f"--seed={seed}"]
    result: dict[str, Any] = json.loads(subprocess.check_output(command))
    return result


def _summary(passes: Sequence[_Made]) -> dict[str, Any]:
    return {
        "million_tokens_per_second": _rate(passes, lambda made: made.seconds),
        "million_tokens_per_cpu_second": _rate(passes, lambda made: made.cpu_seconds),
        "tokens_by_pass": [made.tokens for made in passes],
        "padded_tokens_by_pass": [made.padded_tokens for made in passes],
        "seconds_by_pass": [round(made.seconds, 3) for made in passes],
        "cpu_seconds_by_pass": [round(made.cpu_seconds, 3) for made in passes],
    }


def _rate(passes: Sequence[_Made], seconds: Callable[[_Made], float]) -> float:
    return round(median(made.tokens / 1e6 / seconds(made) for made in passes), 3)


def _ratio(ours: Sequence[_Made], theirs: Sequence[_Made]) -> dict[str, float]:
    """Return how many times as many tokens per second ours are, pass by pass."""
    pairs = list(zip(ours, theirs, strict=True))
    times = [a.tokens / a.seconds * b.seconds / b.tokens for a, b in pairs]
    cpu_times = [a.tokens / a.cpu_seconds * b.cpu_seconds / b.tokens for a, b in pairs]
    return {
        "time": round(median(times), 1),
        "lowest_time": round(min(times), 1),
        "highest_time": round(max(times), 1),
        "cpu_time": round(median(cpu_times), 1),
    }


if __name__ == "__main__":
    main()
