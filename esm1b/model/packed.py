"""Sequences laid end to end, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esm1b.alphabet import CLS, EOS, PAD


@dataclass(frozen=True, kw_only=True)
class PackedTokens:
    """The tokens of several sequences, end to end.

    Attributes:
        tokens: int64 `[total_tokens]`, special tokens included.
        lengths: number of tokens of each sequence, in order; they sum to `total_tokens`.
        longest: upper bound of `lengths`.
        cumulative_lengths: int32 `[sequences + 1]` or longer, from 0 to `total_tokens`, which it
            repeats to its end.
        sequence_index: int64 `[total_tokens]`, sequence of each token.
        offsets: int64 `[total_tokens]`, place of each token in its sequence, from 0.
    """

    tokens: Tensor
    lengths: tuple[int, ...]
    longest: int
    cumulative_lengths: Tensor
    sequence_index: Tensor
    offsets: Tensor

    @classmethod
    def from_tokens(cls, tokens: Tensor, lengths: Sequence[int]) -> "PackedTokens":
        """Return `tokens` `[total_tokens]` with the boundaries that `lengths` describes."""
        counts = np.asarray(lengths, dtype=np.int64)
        ends = np.cumsum(counts)
        sequence_index = np.repeat(np.arange(len(counts)), counts)
        offsets = np.arange(len(tokens)) - (ends - counts)[sequence_index]
        cumulative_lengths = np.concatenate(([0], ends)).astype(np.int32)
        return cls(
            tokens=tokens,
            lengths=tuple(counts.tolist()),
            longest=int(counts.max()),
            cumulative_lengths=torch.from_numpy(cumulative_lengths).to(tokens.device),
            sequence_index=torch.from_numpy(sequence_index).to(tokens.device),
            offsets=torch.from_numpy(offsets).to(tokens.device),
        )

    def to_padded(self, values: Tensor, padding: float = 0.0) -> Tensor:
        """Return `values` `[total_tokens, ...]` as `[sequences, longest, ...]`."""
        size = (len(self.lengths), max(self.lengths), *values.shape[1:])
        padded = values.new_full(size, padding)
        padded[self.sequence_index, self.offsets] = values
        return padded

    def filled(self, *, capacity: int, sequences: int, longest: int) -> "PackedTokens":
        """Return these tokens with `<pad>` sequences after them, so that all shapes are fixed.

        `total_tokens` becomes `capacity` and `cumulative_lengths` has `sequences` + 1 entries, each
        the smallest multiple that suffices where it does not. `longest` is the number of tokens of
        the longest sequence that any batch can have. The filler attends to itself and takes part in
        no loss.
        """
        missing = -len(self.tokens) % capacity
        pieces = [longest] * (missing // longest) + [missing % longest] * (missing % longest > 0)
        tokens = torch.cat((self.tokens, self.tokens.new_full((missing,), PAD)))
        packed = self.from_tokens(tokens, [*self.lengths, *pieces])
        repeats = -len(packed.lengths) % sequences
        ends = torch.cat(
            (packed.cumulative_lengths, packed.cumulative_lengths[-1:].expand(repeats))
        )
        return replace(packed, longest=longest, cumulative_lengths=ends)


def pack_sequences(
    sequences: Sequence[NDArray[np.uint8]], device: torch.device, *, append_eos: bool = True
) -> PackedTokens:
    """Return residue tokens `[length]` each as `<cls> residues <eos>`, end to end."""
    end = [EOS] if append_eos else []
    framed = [np.concatenate(([CLS], residues, end)).astype(np.int64) for residues in sequences]
    return PackedTokens.from_tokens(
        torch.from_numpy(np.concatenate(framed)).to(device), [len(tokens) for tokens in framed]
    )
