"""Masked sequences, and the ways to batch them: end to end, padded, grouped by length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esm1b.alphabet import CLS, EOS, PAD, encode
from esm1b.batches.masking import mask_tokens
from esm1b.model.packed import PackedTokens

CPU: Final = torch.device("cpu")
IGNORED: Final = -100


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """Sequences end to end; `targets` `[M]` are the true tokens at `masked_positions` `[M]`."""

    packed: PackedTokens
    masked_positions: Tensor
    targets: Tensor


@dataclass(frozen=True, kw_only=True)
class PaddedBatch:
    """Sequences as rows `[batch, longest]`; labels are -100 at positions not masked."""

    tokens: Tensor
    attention_mask: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class MaskedSequences:
    """Sequences framed by special tokens and masked by ESM-1b's rule.

    Attributes:
        tokens: tokens of each sequence, int64 `[length]`.
        labels: labels of each sequence, int64 `[length]`: the true token at masked positions, else
            -100.
    """

    tokens: list[NDArray[np.int64]]
    labels: list[NDArray[np.int64]]

    @classmethod
    def of(cls, sequences: Sequence[str], *, seed: int) -> "MaskedSequences":
        """Frame and mask `sequences`."""
        framed = [
            np.concatenate(([CLS], encode(sequence), [EOS])).astype(np.uint8)
            for sequence in sequences
        ]
        lengths = np.array([len(tokens) for tokens in framed])
        original = np.concatenate(framed)
        masked, positions = mask_tokens(
            original,
            lengths,
            seed=seed,
            epochs=np.zeros_like(lengths),
            sequences=np.arange(len(lengths)),
        )
        labels = np.full(len(masked), IGNORED, dtype=np.int64)
        labels[positions] = original[positions]
        ends = np.cumsum(lengths)[:-1]
        return cls(tokens=np.split(masked.astype(np.int64), ends), labels=np.split(labels, ends))

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence, special tokens included."""
        return [len(tokens) for tokens in self.tokens]

    def masked_count(self, members: Sequence[int]) -> int:
        """Return the number of masked positions in the sequences `members`."""
        return sum(int((self.labels[member] != IGNORED).sum()) for member in members)

    def pack(self, members: Sequence[int], device: torch.device = CPU) -> PackedBatch:
        """Return the sequences `members` end to end."""
        labels = np.concatenate([self.labels[member] for member in members])
        positions = np.flatnonzero(labels != IGNORED)
        tokens = np.concatenate([self.tokens[member] for member in members])
        return PackedBatch(
            packed=PackedTokens.from_tokens(
                torch.from_numpy(tokens).to(device),
                [len(self.tokens[member]) for member in members],
            ),
            masked_positions=torch.from_numpy(positions).to(device),
            targets=torch.from_numpy(labels[positions]).to(device),
        )

    def pad(self, members: Sequence[int], device: torch.device = CPU) -> PaddedBatch:
        """Return the sequences `members` padded to the longest of them."""

        def rows(values: list[NDArray[np.int64]], padding: int) -> Tensor:
            return torch.nn.utils.rnn.pad_sequence(
                [torch.from_numpy(values[member]) for member in members],
                batch_first=True,
                padding_value=padding,
            ).to(device)

        tokens = rows(self.tokens, PAD)
        return PaddedBatch(
            tokens=tokens,
            attention_mask=(tokens != PAD).long(),
            labels=rows(self.labels, IGNORED),
        )


def split_evenly(members: Sequence[int], lengths: Sequence[int], *, tokens: int) -> list[list[int]]:
    """Cut `members`, in order, into batches of about `tokens` tokens, as even as possible.

    Args:
        members: indices of sequences.
        lengths: number of tokens of every sequence.
        tokens: mean tokens of a batch; the number of batches is rounded up.
    """
    counts = np.array([lengths[member] for member in members])
    batches = -(-int(counts.sum()) // tokens)
    # A sequence belongs to the batch that contains its middle.
    batch_of = (np.cumsum(counts) - counts / 2) * batches / counts.sum()
    parts: list[list[int]] = [[] for _ in range(batches)]
    for member, batch in zip(members, batch_of.astype(np.int64).tolist(), strict=True):
        parts[batch].append(member)
    return [part for part in parts if part]


def deal(batches: Sequence[list[int]], updates: int, *, seed: int) -> list[list[list[int]]]:
    """Return `batches` in random order, divided as evenly as possible among `updates`."""
    order = np.random.default_rng(seed).permutation(len(batches))
    return [[batches[index] for index in part.tolist()] for part in np.array_split(order, updates)]
