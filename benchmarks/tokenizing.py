"""Corpus to tokens: `esm1b tokenize`, from Parquet to synced Arrow files with digests.

Beside it the tokenizer of Hugging Face's EsmForMaskedLM, which turns strings in memory into lists
of ids and neither reads nor writes a file. Every side is a process of its own with the workers that
it starts, one side after the other.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from benchmarks.command import run_command
from benchmarks.process_tree import Taken, run_in_process, summary
from benchmarks.uniref_text import write_uniref
from esm1b.alphabet import TOKENS
from esm1b.corpus.sharding.shard import shard
from esm1b.corpus.tokens.tokenize import tokenize

# some seconds of work for it
_TRANSFORMERS_SEQUENCES: Final = 10_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks tokenizing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--megabytes", type=float, default=500, help="of FASTA to make the corpus")
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--passes", type=int, default=3, help="of all sides")
    parser.add_argument("--folder", type=Path, help="for all files; default: temporary")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON file to write; default: print")
    run_command(parser, arguments, _measured)


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    # with torch, which the processes that are measured, and import this module, do without
    from benchmarks.machine import describe_machine

    machine = describe_machine(threads=1)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        path, corpus = folder / "uniref50.fasta.gz", folder / "corpus"
        write_uniref(path, round(options.megabytes * 1e6), seed=options.seed)
        manifest = shard([str(path)], corpus, shards=options.shards, workers=2)
        path.unlink()
        residues = sum(manifest["residues"].values())
        amounts = {f"tokenize, {workers} workers": residues for workers in (1, 2)}
        sides: dict[str, Callable[[], Taken]] = {
            f"tokenize, {workers} workers": partial(
                run_in_process, _tokenize, corpus, folder / "tokens", workers
            )
            for workers in (1, 2)
        }
        # what a process takes before it does anything
        sides["start"] = partial(run_in_process, _start)
        sample = sum(map(len, _sequences(corpus)))
        sides["transformers"] = partial(run_in_process, _transformers, corpus)
        sides["transformers, start"] = partial(run_in_process, _transformers, corpus, 1)
        taken: dict[str, list[Taken]] = {side: [] for side in sides}
        for _ in range(options.passes):
            for side, run in sides.items():
                taken[side].append(run())
    amounts["transformers"] = sample
    starts = {"transformers": "transformers, start"}
    return {
        "benchmark": "corpus to tokens; rates in millions of residues, start of processes included",
        "machine": machine,
        "corpus": {
            "source": "drawn",
            "seed": options.seed,
            "sequences": sum(manifest["sequences"].values()),
            "residues": residues,
            "shards": options.shards,
        },
        "transformers_residues": sample,
        "order": "sides one after the other, each in processes of its own",
        "sides": {
            side: summary(taken[side], amount=amount / 1e6, unit="million_residues")
            for side, amount in amounts.items()
        },
        "million_residues_per_cpu_second_without_start": {
            side: round(
                amount
                / 1e6
                / (_least_cpu(taken[side]) - _least_cpu(taken[starts.get(side, "start")])),
                2,
            )
            for side, amount in amounts.items()
        },
    }


def _least_cpu(taken: Sequence[Taken]) -> float:
    return min(one.cpu_seconds for one in taken)


def _start() -> None:
    """Do nothing but what importing this module takes."""


def _tokenize(corpus: Path, output: Path, workers: int) -> None:
    tokenize(corpus, output, workers=workers)


def _transformers(corpus: Path, sequences: int = _TRANSFORMERS_SEQUENCES) -> None:
    from transformers import EsmTokenizer

    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.txt"
        vocabulary.write_text("\n".join(TOKENS))
        tokenizer = EsmTokenizer(str(vocabulary))
    for sequence in islice(_sequences(corpus), sequences):
        tokenizer(sequence)


def _sequences(corpus: Path) -> Iterator[str]:
    """Yield some sequences of a corpus."""
    path = corpus / "train" / "00000.parquet"
    for batch in pq.ParquetFile(path).iter_batches(_TRANSFORMERS_SEQUENCES, columns=["sequence"]):
        yield from batch.column(0).to_pylist()
        return


if __name__ == "__main__":
    main()
