import numpy as np
import torch

from esm1b.model.packed import PackedTokens, pack_sequences


def test_sequences_are_framed_and_laid_end_to_end() -> None:
    sequences = [np.array([20, 15], dtype=np.uint8), np.array([], dtype=np.uint8)]
    packed = pack_sequences(sequences, torch.device("cpu"))
    assert packed.tokens.tolist() == [0, 20, 15, 2, 0, 2]
    assert packed.tokens.dtype == torch.int64
    assert packed.lengths == (4, 2)
    assert packed.sequence_index.tolist() == [0, 0, 0, 0, 1, 1]
    assert packed.offsets.tolist() == [0, 1, 2, 3, 0, 1]


def test_boundaries_of_given_tokens() -> None:
    packed = PackedTokens.from_tokens(torch.tensor([0, 5, 0, 6, 7]), [2, 3])
    assert packed.sequence_index.tolist() == [0, 0, 1, 1, 1]
    assert packed.offsets.tolist() == [0, 1, 0, 1, 2]
    assert packed.cumulative_lengths.tolist() == [0, 2, 5]
    assert packed.cumulative_lengths.dtype == torch.int32
    assert packed.longest == 3


def test_padding_is_added_on_the_right() -> None:
    packed = PackedTokens.from_tokens(torch.tensor([0, 5, 2, 0, 6, 7, 8, 2]), [3, 5])
    padded = packed.to_padded(packed.tokens, padding=1)
    assert padded.tolist() == [[0, 5, 2, 1, 1], [0, 6, 7, 8, 2]]
    assert packed.to_padded(torch.ones(8, 4)).shape == (2, 5, 4)


def test_a_filler_fixes_all_shapes() -> None:
    packed = PackedTokens.from_tokens(torch.tensor([0, 5, 2, 0, 6, 7, 2]), [3, 4])
    filled = packed.filled(capacity=20, sequences=8, longest=6)
    assert filled.tokens.tolist() == [0, 5, 2, 0, 6, 7, 2] + [1] * 13
    assert filled.lengths == (3, 4, 6, 6, 1)
    assert filled.cumulative_lengths.tolist() == [0, 3, 7, 13, 19, 20, 20, 20, 20]
    assert filled.cumulative_lengths.dtype == torch.int32
    assert filled.longest == 6
    assert filled.offsets.tolist() == [0, 1, 2, 0, 1, 2, 3, *range(6), *range(6), 0]
    assert torch.equal(packed.filled(capacity=7, sequences=2, longest=6).tokens, packed.tokens)


def test_what_does_not_fit_takes_the_next_multiple() -> None:
    packed = PackedTokens.from_tokens(torch.zeros(9, dtype=torch.int64), [3, 3, 3])
    filled = packed.filled(capacity=8, sequences=2, longest=4)
    assert len(filled.tokens) == 16
    assert filled.lengths == (3, 3, 3, 4, 3)
    assert len(filled.cumulative_lengths) == 7
