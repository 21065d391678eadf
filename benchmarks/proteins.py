"""Sequences to measure with: of a FASTA file, or drawn with the lengths of UniRef50."""

from typing import Any, Final

import numpy as np

from esm1b.alphabet import AMINO_ACIDS
from esm1b.errors import UserError
from esm1b.sequences.fasta import read_fasta_blocks
from esm1b.sequences.input_file import InputFile

LONGEST_SEQUENCE: Final = 1022

# UniRef50 has 60,315,044 records of 286.5 residues on average (17,282,055,793 residues). Natural
# logarithms of lengths spread by 0.70 in samples of UniRef90 and of a bacterial proteome.
_MEAN_LENGTH: Final = 286.5
_LOG_SPREAD: Final = 0.70
_SHORTEST_DRAWN: Final = 10


def read_or_draw(fasta: str | None, *, residues: int, seed: int) -> list[str]:
    """Return sequences in random order that hold at least `residues` residues, or all there are.

    They are cropped to their first 1,022 residues. Without a FASTA file lengths are log-normal
    around UniRef50's mean and residues uniform.

    Raises:
        UserError: the file cannot be read, or holds fewer residues.
    """
    random = np.random.default_rng(seed)
    chosen: list[str] = []
    total = 0
    if fasta is None:
        centre = np.log(_MEAN_LENGTH) - _LOG_SPREAD**2 / 2
        while total < residues:
            length = max(_SHORTEST_DRAWN, round(random.lognormal(centre, _LOG_SPREAD)))
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
    """Return what a result says of its sequences."""
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
