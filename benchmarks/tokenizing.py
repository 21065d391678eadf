"""Corpus to tokens, compared with the tokenizer of Hugging Face's `transformers`.

`tokenize` runs the code of `esm1b tokenize`: from Parquet to synced Arrow files with digests.
`transformers` is `EsmTokenizer` on strings in memory, which writes no file. The sides run one after
the other, each in its own process with its own workers.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

from benchmarks.corpus import (
    add_corpus_options,
    esm_tokenizer,
    training_sequences,
    write_corpus,
)
from benchmarks.machine import describe_machine
from benchmarks.process_tree import Usage, run_in_turn, summary
from esm1b.corpus.tokens.tokenize import tokenize

# a few seconds of work for `transformers`
_TRANSFORMERS_SEQUENCES: Final = 10_000


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add_corpus_options(parser)
    parser.add_argument("--passes", type=int, default=3, help="runs of each side")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all sides and return the result."""
    machine = describe_machine(threads=1)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        corpus, description = write_corpus(folder, options)
        sample = sum(map(len, islice(training_sequences(corpus), _TRANSFORMERS_SEQUENCES)))
        sides: dict[str, Callable[[], object]] = {
            f"tokenize, {workers} workers": partial(_tokenize, corpus, folder / "tokens", workers)
            for workers in (1, 2)
        }
        amounts = {**dict.fromkeys(sides, description["residues"]), "transformers": sample}
        sides["start"] = _start
        sides["transformers"] = partial(_transformers, corpus, _TRANSFORMERS_SEQUENCES)
        sides["transformers, start"] = partial(_transformers, corpus, 1)
        usages = run_in_turn(sides, options.passes)
    starts = {"transformers": "transformers, start"}
    return {
        "benchmark": "corpus to tokens; rates in millions of residues, start of processes included",
        "machine": machine,
        "corpus": description,
        "transformers_residues": sample,
        "order": "sides one after the other, each in processes of its own",
        "sides": {
            side: summary(usages[side], amount=amount / 1e6, unit="million_residues")
            for side, amount in amounts.items()
        },
        "million_residues_per_cpu_second_without_start": {
            side: round(
                amount
                / 1e6
                / (_least_cpu(usages[side]) - _least_cpu(usages[starts.get(side, "start")])),
                2,
            )
            for side, amount in amounts.items()
        },
    }


def _least_cpu(usages: Sequence[Usage]) -> float:
    return min(one.cpu_seconds for one in usages)


def _start() -> None:
    """Only start a process, which imports this module."""


def _tokenize(corpus: Path, output: Path, workers: int) -> None:
    tokenize(corpus, output, workers=workers)


def _transformers(corpus: Path, count: int) -> None:
    tokenizer = esm_tokenizer()
    for sequence in islice(training_sequences(corpus), count):
        tokenizer(sequence)
