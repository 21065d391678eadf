"""Sequences laid end to end, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esm1b.alphabet import CLS, EOS

__all__ = ["PackedTokens", "pack_sequences"]


@dataclass(frozen=True, kw_only=True)
class PackedTokens:
    """The tokens of several sequences, end to end.

    Attributes:
        tokens: int64 `[total_tokens]`, special tokens included.
        lengths: tokens of each sequence, in order; they sum to `total_tokens`.
        sequence_index: int64 `[total_tokens]`, the sequence that each token belongs to.
        offsets: int64 `[total_tokens]`, the place of each token in its sequence, from 0.
    """

    tokens: Tensor
    lengths: tuple[int, ...]
    sequence_index: Tensor
    offsets: Tensor

    @classmethod
    def from_tokens(cls, tokens: Tensor, lengths: Sequence[int]) -> "PackedTokens":
        """Return `tokens` `[total_tokens]` with the boundaries that `lengths` describes."""
        counts = torch.as_tensor(lengths, dtype=torch.int64, device=tokens.device)
        sequence_index = torch.repeat_interleave(
            torch.arange(len(lengths), device=tokens.device), counts, output_size=len(tokens)
        )
        starts = counts.cumsum(0) - counts
        offsets = torch.arange(len(tokens), device=tokens.device) - starts[sequence_index]
        return cls(
            tokens=tokens,
            lengths=tuple(int(length) for length in lengths),
            sequence_index=sequence_index,
            offsets=offsets,
        )


def pack_sequences(
    sequences: Sequence[NDArray[np.uint8]], device: torch.device, *, append_eos: bool = True
) -> PackedTokens:
    """Return residue tokens `[length]` each as `<cls> residues <eos>`, end to end."""
    end = [EOS] if append_eos else []
    framed = [np.concatenate(([CLS], residues, end)).astype(np.int64) for residues in sequences]
    return PackedTokens.from_tokens(
        torch.from_numpy(np.concatenate(framed)).to(device), [len(tokens) for tokens in framed]
    )
