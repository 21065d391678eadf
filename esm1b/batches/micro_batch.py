"""Sequences of a corpus as a micro-batch: cropped, framed, masked and laid end to end."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from esm1b.alphabet import CLS, EOS, RareResidues, merge_rare_residues
from esm1b.batches.masking import Corruption, mask_tokens
from esm1b.batches.randomness import Purpose, keys, uniform, words
from esm1b.corpus.tokens.dataset import TokenDataset


@dataclass(frozen=True, kw_only=True)
class BatchRecipe:
    """What decides the content of a batch besides its sequences.

    Attributes:
        crop_residues: most residues of a sequence; longer ones are cropped at random.
        append_eos: True if `<eos>` closes each sequence.
        rare_residues: "replace" merges B, U, Z and O into X.
        seed: random seed of crops and masks.
    """

    crop_residues: int
    append_eos: bool
    rare_residues: RareResidues
    seed: int

    @property
    def maximum_tokens(self) -> int:
        """Tokens of the longest sequence, special tokens included."""
        return self.crop_residues + self.special_tokens

    @property
    def special_tokens(self) -> int:
        """Special tokens of each sequence."""
        return 2 if self.append_eos else 1

    def framed_lengths(self, residues: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the tokens of sequences with so many `residues`, int64 `[sequences]`."""
        return np.minimum(residues, self.crop_residues).astype(np.int64) + self.special_tokens


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Masked sequences end to end.

    Attributes:
        tokens: int64 `[tokens]`.
        lengths: int64 `[sequences]`, tokens of each, special tokens included.
        masked_positions: int64 `[masked]`, ascending.
        targets: int64 `[masked]`.
    """

    tokens: NDArray[np.int64]
    lengths: NDArray[np.int64]
    masked_positions: NDArray[np.int64]
    targets: NDArray[np.int64]

    def pinned(self) -> "MicroBatch":
        """Return a copy in page-locked memory, which a GPU reads by itself; without CUDA, `self`.

        Each array is a block of torch's own: from the address where a transfer begins, torch knows
        until when it must not reuse the block.
        """
        if not torch.cuda.is_available():
            return self
        return MicroBatch(
            **{name: torch.from_numpy(a).pin_memory().numpy() for name, a in vars(self).items()}
        )


def make_batch(
    dataset: TokenDataset,
    sequences: NDArray[np.int64],
    epochs: NDArray[np.int64],
    recipe: BatchRecipe,
    *,
    corruption: Corruption = "training",
) -> MicroBatch:
    """Return the sequences cropped, framed by special tokens, masked and laid end to end.

    Without sequences the batch is one `<cls> <eos>` with nothing masked: it trains nothing, but
    a network can run on it.
    """
    if len(sequences) == 0:
        nothing = np.empty(0, dtype=np.int64)
        return MicroBatch(
            tokens=np.array([CLS, EOS][: recipe.special_tokens], dtype=np.int64),
            lengths=np.array([recipe.special_tokens], dtype=np.int64),
            masked_positions=nothing,
            targets=nothing,
        )
    lengths = dataset.lengths[sequences].astype(np.int64)
    counts = np.minimum(lengths, recipe.crop_residues)
    crop_words = words(keys(Purpose.CROP, recipe.seed, epochs, sequences), np.zeros_like(lengths))
    crops = (uniform(crop_words) * (lengths - counts + 1)).astype(np.int64)
    after = bytes([EOS] if recipe.append_eos else [])
    tokens = dataset.gather(sequences, crops, counts, before=bytes([CLS]), after=after)
    if recipe.rare_residues == "replace":
        tokens = merge_rare_residues(tokens)
    framed_lengths = counts + recipe.special_tokens
    masked, positions = mask_tokens(
        tokens,
        framed_lengths,
        seed=recipe.seed,
        epochs=epochs,
        sequences=sequences,
        corruption=corruption,
    )
    return MicroBatch(
        tokens=masked.astype(np.int64),
        lengths=framed_lengths,
        masked_positions=positions,
        targets=tokens[positions].astype(np.int64),
    )
