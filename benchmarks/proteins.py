"""Sequences of a FASTA file, or random ones with the lengths of UniRef50."""

import argparse
from typing import Any, Final

import numpy as np

from benchmarks.uniref_text import LOG_MEAN, LOG_SPREAD
from esm1b.alphabet import AMINO_ACIDS
from esm1b.errors import UserError
from esm1b.sequences.fasta import read_fasta_blocks
from esm1b.sequences.input_file import InputFile

LONGEST_SEQUENCE: Final = 1022
_SHORTEST_DRAWN: Final = 10


def add_fasta_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for a file of sequences."""
    parser.add_argument(
        "--fasta",
        metavar="PATH",
        help="FASTA file of sequences, plain or .gz (default: random sequences)",
    )


def read_or_draw(fasta: str | None, *, residues: int, seed: int) -> list[str]:
    """Return sequences in random order with at least `residues` residues in total.

    Each is cropped to its first 1,022 residues. Without a FASTA file, lengths are log-normal around
    UniRef50's mean and residues uniform.

    Raises:
        UserError: the file cannot be read, or has fewer residues.
    """
    random = np.random.default_rng(seed)
    chosen: list[str] = []
    total = 0
    if fasta is None:
        while total < residues:
            length = max(_SHORTEST_DRAWN, round(random.lognormal(LOG_MEAN, LOG_SPREAD)))
            length = min(length, LONGEST_SEQUENCE)
            chosen.append("".join(random.choice(list(AMINO_ACIDS), size=length)))
            total += length
        return chosen
    records = [
        sequence[:LONGEST_SEQUENCE].decode("ascii")
        for block in read_fasta_blocks(InputFile(fasta))
        for sequence in block.sequences
    ]
    for index in random.permutation(len(records)).tolist():
        if total >= residues:
            return chosen
        chosen.append(records[index])
        total += len(records[index])
    if total < residues:
        raise UserError(f"{fasta}: {total} residues; expected at least {residues}")
    return chosen


def describe_sequences(sequences: list[str], fasta: str | None, seed: int) -> dict[str, Any]:
    """Return a result's description of the sequences."""
    lengths = np.array([len(sequence) for sequence in sequences])
    return {
        "source": "drawn: log-normal lengths, mean 286.5, spread of logarithms 0.70, crop 1022"
        if fasta is None
        else f"{fasta.rsplit('/', 1)[-1]}, in random order, cropped to 1022 residues",
        "seed": seed,
        "sequences": len(sequences),
        "residues": int(lengths.sum()),
        "mean_length": round(float(lengths.mean()), 1),
        "median_length": float(np.median(lengths)),
        "longest": int(lengths.max()),
    }
