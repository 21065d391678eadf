"""Sequences of a corpus as a micro-batch: cropped, framed, masked and laid end to end."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from esm1b.alphabet import CLS, EOS, RareResidues, merge_rare_residues
from esm1b.batches.counter import Purpose, keys, uniform, words
from esm1b.batches.masking import Corruption, mask_tokens
from esm1b.corpus.tokens.dataset import TokenDataset

_CLS: Final = bytes([CLS])
_EOS: Final = bytes([EOS])


@dataclass(frozen=True, kw_only=True)
class BatchRecipe:
    """What decides the content of a batch besides the sequences.

    Attributes:
        crop_residues: longer sequences are cropped at random to this many residues.
        append_eos: whether `<eos>` closes each sequence.
        rare_residues: "replace" merges B, U, Z and O into X.
        seed: of crops and masks.
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
        return _nothing(append_eos=recipe.append_eos)
    lengths = dataset.lengths[sequences].astype(np.int64)
    counts = np.minimum(lengths, recipe.crop_residues)
    crop_words = words(keys(Purpose.CROP, recipe.seed, epochs, sequences), np.zeros_like(lengths))
    crops = (uniform(crop_words) * (lengths - counts + 1)).astype(np.int64)
    tokens = dataset.gather(
        sequences, crops, counts, before=_CLS, after=_EOS if recipe.append_eos else b""
    )
    if recipe.rare_residues == "replace":
        tokens = merge_rare_residues(tokens)
    framed_lengths = counts + recipe.special_tokens
    masked = mask_tokens(
        tokens,
        framed_lengths,
        seed=recipe.seed,
        epochs=epochs,
        sequences=sequences,
        corruption=corruption,
    )
    return MicroBatch(
        tokens=masked.tokens.astype(np.int64),
        lengths=framed_lengths,
        masked_positions=masked.positions,
        targets=masked.targets.astype(np.int64),
    )


def _nothing(*, append_eos: bool) -> MicroBatch:
    tokens = np.array([CLS, EOS] if append_eos else [CLS], dtype=np.int64)
    nothing = np.empty(0, dtype=np.int64)
    return MicroBatch(
        tokens=tokens,
        lengths=np.array([len(tokens)], dtype=np.int64),
        masked_positions=nothing,
        targets=nothing,
    )
