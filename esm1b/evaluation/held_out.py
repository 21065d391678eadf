"""The sequences that perplexity is measured on: a corpus's held-out ones, or those of a FASTA."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from esm1b.corpus.manifest import MANIFEST
from esm1b.corpus.tokens.dataset import TokenDataset, open_tokens
from esm1b.errors import UserError
from esm1b.inference.fasta_input import checked_fasta
from esm1b.inference.model import Model


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Sequences to measure perplexity on.

    Attributes:
        dataset: the sequences.
        training: training sequences of the same corpus, or None for a FASTA file.
        ids: id of each sequence of a FASTA file.
        files: file that identifies them, by the name of its kind.
    """

    dataset: TokenDataset
    training: TokenDataset | None
    ids: list[str] | None
    files: Mapping[str, Path]

    @property
    def subset(self) -> str:
        """Return what results call these sequences."""
        return "validation" if self.ids is None else "fasta"

    @property
    def unit(self) -> str:
        """Return what is drawn in the bootstrap."""
        return "cluster" if self.ids is None else "sequence"


def open_held_out(path: Path, model: Model, sequences: int) -> HeldOut:
    """Open a tokens directory, or read the first `sequences` records of a FASTA file.

    Raises:
        UserError: it is neither, or is damaged, or a record is invalid.
    """
    if not path.is_file():
        return HeldOut(
            dataset=open_tokens(path, "validation"),
            training=open_tokens(path, "train"),
            ids=None,
            files={"tokens": path / MANIFEST},
        )
    with checked_fasta(
        str(path), longest=model.longest_sequence, long_sequences="truncate", output=path
    ) as fasta:
        records = list(islice(fasta.records(), sequences))
        if not records:
            raise UserError(f"{path}: no sequences; expected FASTA, or a tokens directory")
        offsets = np.cumsum([0, *(len(record.residues) for record in records)], dtype=np.int64)
        digest = fasta.identity["sha256"]
    residues = np.concatenate([record.residues for record in records])
    dataset = TokenDataset(
        [(offsets, residues)],
        fingerprint=digest,
        corpus_fingerprint=digest,
        reopen=lambda: open_held_out(path, model, sequences).dataset,
    )
    return HeldOut(
        dataset=dataset,
        training=None,
        ids=[record.id for record in records],
        files={"fasta": path},
    )
