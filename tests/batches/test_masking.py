import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from esm1b.alphabet import MASK, X
from esm1b.batches.masking import Corruption, mask_tokens


class MaskedTokens(NamedTuple):
    tokens: NDArray[np.uint8]
    positions: NDArray[np.int64]
    targets: NDArray[np.uint8]


def framed(residues: list[list[int]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    tokens = np.array([t for part in residues for t in (0, *part, 2)], dtype=np.uint8)
    return tokens, np.array([len(part) + 2 for part in residues], dtype=np.int64)


def masked(
    residues: list[list[int]],
    *,
    epoch: int = 0,
    sequences: list[int] | None = None,
    seed: int = 1,
    corruption: Corruption = "training",
) -> MaskedTokens:
    tokens, lengths = framed(residues)
    numbers = np.arange(len(residues)) if sequences is None else np.array(sequences)
    corrupted, positions = mask_tokens(
        tokens,
        lengths,
        seed=seed,
        epochs=np.full(len(residues), epoch),
        sequences=numbers,
        corruption=corruption,
    )
    return MaskedTokens(corrupted, positions, tokens[positions])


@pytest.fixture(scope="module")
def many() -> tuple[NDArray[np.uint8], MaskedTokens]:
    """4,000 sequences of 200 random amino acids: 120,000 masked positions."""
    residues = np.random.default_rng(0).integers(4, 24, size=(4000, 200)).tolist()
    return framed(residues)[0], masked(residues)


def within_five_deviations(successes: int, trials: int, share: float) -> bool:
    return abs(successes - trials * share) < 5 * math.sqrt(trials * share * (1 - share))


def test_pinned_masks() -> None:
    """Changing the masks would change every run: these values stay."""
    result = masked([list(range(4, 24)) * 4, [4, 5, 6, 7, 8, 9]])
    assert result.positions.tolist() == [7, 20, 21, 22, 45, 54, 55, 63, 64, 69, 70, 74, 88]
    assert result.targets.tolist() == [10, 23, 4, 5, 8, 17, 18, 6, 7, 12, 13, 17, 9]
    assert result.tokens[result.positions].tolist() == [
        32,
        32,
        4,
        32,
        32,
        32,
        32,
        32,
        32,
        32,
        32,
        32,
        32,
    ]


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(4, 28), max_size=60), min_size=1, max_size=6),
    st.integers(0, 2**63 - 1),
)
def test_exact_counts_and_untouched_tokens(residues: list[list[int]], seed: int) -> None:
    tokens, lengths = framed(residues)
    result = masked(residues, seed=seed)
    starts = np.cumsum(lengths) - lengths
    for part, start, length in zip(residues, starts, lengths, strict=True):
        eligible = sum(token != X for token in part)
        inside = (result.positions >= start) & (result.positions < start + length)
        assert inside.sum() in (int(0.15 * eligible), int(0.15 * eligible) + 1)
        if eligible * 0.15 == int(eligible * 0.15):
            assert inside.sum() == eligible * 0.15
    assert (np.diff(result.positions) > 0).all()
    assert result.targets.tolist() == tokens[result.positions].tolist()
    assert not set(result.targets.tolist()) & {0, 1, 2, 3, X, 29, 30, 31, 32}
    untouched = np.ones(len(tokens), dtype=bool)
    untouched[result.positions] = False
    assert (result.tokens[untouched] == tokens[untouched]).all()


def test_counts_round_stochastically() -> None:
    # 15 % of 10 is 1.5: one or two, each half of the time.
    result = masked([[4] * 10] * 4000)
    counts = np.bincount(result.positions // 12, minlength=4000)
    assert set(counts.tolist()) == {1, 2}
    assert within_five_deviations(int((counts == 2).sum()), 4000, 0.5)
    # 15 % of 3 is 0.45: even the shortest sequences take their part.
    assert within_five_deviations(len(masked([[4] * 3] * 4000).positions), 4000, 0.45)


def test_kinds_of_corruption(many: tuple[NDArray[np.uint8], MaskedTokens]) -> None:
    _, result = many
    corrupted = result.tokens[result.positions]
    n = len(corrupted)
    assert n == 4000 * 30
    unchanged = int((corrupted == result.targets).sum())
    hidden = int((corrupted == MASK).sum())
    assert within_five_deviations(hidden, n, 0.8)
    assert within_five_deviations(unchanged, n, 0.1)
    assert within_five_deviations(n - hidden - unchanged, n, 0.1)


def test_kinds_are_drawn_for_each_position(
    many: tuple[NDArray[np.uint8], MaskedTokens],
) -> None:
    _, result = many
    hidden = (result.tokens[result.positions] == MASK).reshape(4000, 30).sum(1)
    # Binomial, not an exact 24 of 30 for each sequence: variance 30 * 0.8 * 0.2 = 4.8.
    assert abs(hidden.var() - 4.8) < 0.6


def test_a_random_residue_is_one_of_the_19_others(
    many: tuple[NDArray[np.uint8], MaskedTokens],
) -> None:
    _, result = many
    corrupted = result.tokens[result.positions]
    replaced = (corrupted != MASK) & (corrupted != result.targets)
    table = np.zeros((20, 20), dtype=np.int64)
    np.add.at(table, (result.targets[replaced] - 4, corrupted[replaced] - 4), 1)
    assert table.sum() == replaced.sum()  # nothing outside of the 20
    assert (np.diag(table) == 0).all()
    others = table[~np.eye(20, dtype=bool)].reshape(20, 19)
    assert (others > 0).all()
    for row in others:
        assert stats.chisquare(row).pvalue > 1e-5
    assert stats.chisquare(others.ravel()).pvalue > 1e-3


def test_every_place_is_chosen_alike(many: tuple[NDArray[np.uint8], MaskedTokens]) -> None:
    _, result = many
    places = result.positions % 202
    counts = np.bincount(places, minlength=202)
    assert counts[0] == counts[201] == 0
    assert stats.chisquare(counts[1:201]).pvalue > 1e-3


def test_masks_do_not_depend_on_the_neighbours() -> None:
    generator = np.random.default_rng(3)
    residues = [generator.integers(4, 29, size=n).tolist() for n in (30, 7, 61, 1, 44)]
    together = masked(residues, sequences=[5, 6, 7, 8, 9], epoch=2)
    tokens = np.split(together.tokens, np.cumsum([len(part) + 2 for part in residues])[:-1])
    for index, part in enumerate(residues):
        alone = masked([part], sequences=[5 + index], epoch=2)
        assert alone.tokens.tolist() == tokens[index].tolist()
    backwards = masked(residues[::-1], sequences=[9, 8, 7, 6, 5], epoch=2)
    pieces = np.split(backwards.tokens, np.cumsum([len(p) + 2 for p in residues[::-1]])[:-1])
    for piece, expected in zip(pieces[::-1], tokens, strict=True):
        assert piece.tolist() == expected.tolist()


def test_masks_where_most_places_may_not_be_masked() -> None:
    """Such sequences need many more draws, which changes nothing for their neighbours."""
    generator = np.random.default_rng(4)
    sparse = [([4] * few + [X] * (1000 - few)) for few in (0, 1, 2, 7, 20)]
    ordinary = generator.integers(4, 24, size=(8, 150)).tolist()
    sequences = list(range(13))
    together = masked(sparse + ordinary, sequences=sequences, epoch=3)
    owners = np.searchsorted(np.cumsum([1002] * 5 + [152] * 8), together.positions, side="right")
    counts = np.bincount(owners, minlength=13)
    assert counts[0] == 0
    assert counts[4] == 3
    assert (counts[5:] - 22 <= 1).all()
    alone = masked(ordinary, sequences=sequences[5:], epoch=3)
    assert together.tokens[5 * 1002 :].tolist() == alone.tokens.tolist()
    # one of 1,000 places, of one in seven sequences
    single = masked([[X] * 500 + [4] + [X] * 499] * 400)
    assert within_five_deviations(len(single.positions), 400, 0.15)
    assert set((single.positions % 1002).tolist()) == {501}


def test_pairs_of_places_are_chosen_alike() -> None:
    # 20 places, 3 of them masked: each of the 1,140 sets as often as the others.
    result = masked([[5] * 20] * 40_000)
    places = result.positions.reshape(-1, 3) % 22
    sets = np.unique(places @ np.array([10_000, 100, 1]), return_counts=True)[1]
    assert len(sets) == 1140
    assert stats.chisquare(sets).pvalue > 1e-3


def test_what_happens_does_not_depend_on_the_place(
    many: tuple[NDArray[np.uint8], MaskedTokens],
) -> None:
    _, result = many
    hidden = result.tokens[result.positions] == MASK
    quarter = (result.positions % 202 - 1) // 50
    table = np.array([np.bincount(quarter[hidden]), np.bincount(quarter[~hidden])])
    assert stats.chi2_contingency(table).pvalue > 1e-3
    # nor on what happens to the place masked before
    pairs = np.histogram2d(hidden[:-1], hidden[1:], bins=2)[0]
    assert stats.chi2_contingency(pairs).pvalue > 1e-3


def test_masks_are_new_for_each_epoch_sequence_and_seed() -> None:
    part = [4, 5, 6, 7, 8] * 40
    first = masked([part]).positions.tolist()
    assert masked([part]).positions.tolist() == first
    assert masked([part], epoch=1).positions.tolist() != first
    assert masked([part], sequences=[1]).positions.tolist() != first
    assert masked([part], seed=2).positions.tolist() != first
    overlap = set(first) & set(masked([part], epoch=1).positions.tolist())
    assert len(overlap) < 15  # 30 of 200 chosen twice meet at 4.5 on average


def test_mask_only_chooses_the_same_positions() -> None:
    residues = np.random.default_rng(0).integers(4, 28, size=(20, 50)).tolist()
    hidden = masked(residues, corruption="mask-only")
    as_trained = masked(residues)
    assert hidden.positions.tolist() == as_trained.positions.tolist()
    assert hidden.targets.tolist() == as_trained.targets.tolist()
    assert set(hidden.tokens[hidden.positions].tolist()) == {MASK}


def test_rare_residues_are_masked_and_replaced_by_amino_acids() -> None:
    result = masked([[26] * 100] * 200)  # U, where rare residues keep their own symbols
    assert len(result.positions) == 200 * 15
    corrupted = result.tokens[result.positions]
    assert set(corrupted.tolist()) == {26, MASK, *range(4, 24)}


def test_nothing_to_mask() -> None:
    result = masked([[X] * 30, []])
    assert result.positions.tolist() == []
    assert result.tokens.tolist() == [0, *[X] * 30, 2, 0, 2]
