"""Model directories and FASTA files that tests of commands share."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from esm1b.alphabet import AMINO_ACIDS
from esm1b.cli import main
from esm1b.model.layers import ContactHead
from esm1b.model.shape import EncoderShape
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model
from tests.conftest import random_encoder

SHAPE = EncoderShape(layers=2, width=8, heads=2, feed_forward=12, maximum_tokens=66)
LONGEST = 64


def write_model(directory: Path, *, fitted: bool = False, seed: int = 0) -> Path:
    """Write a tiny model of two layers that takes 64 residues."""
    head = ContactHead(coefficients=torch.tensor([3.0, -2, 9, 0]), intercept=torch.tensor(-1.0))
    save_model(
        random_encoder(SHAPE, seed),
        directory,
        Provenance(),
        contact_head=head if fitted else None,
    )
    return directory


def random_sequences(number: int, longest: int = 40) -> list[str]:
    generator = np.random.default_rng(3)
    return [
        "".join(generator.choice(list(AMINO_ACIDS), int(generator.integers(1, longest + 1))))
        for _ in range(number)
    ]


def write_fasta(path: Path, sequences: Sequence[str]) -> Path:
    """Write records with the ids protein1, protein2, and so on."""
    records = [f">protein{n} of a test\n{text}\n" for n, text in enumerate(sequences, start=1)]
    path.write_text("".join(records))
    return path


def run_command(*arguments: str | Path) -> int:
    """Run the command line and return its exit status; logging is as before afterwards."""
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    try:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(sys, "argv", ["esm1b", *map(str, arguments)])
            with pytest.raises(SystemExit) as caught:
                main()
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]
    return int(caught.value.code or 0)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run the command line on wrong input and return the one line that it prints."""
    capsys.readouterr()
    assert run_command(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    return lines[0].removeprefix("esm1b: error: ")
