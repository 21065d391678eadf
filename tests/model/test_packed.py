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
