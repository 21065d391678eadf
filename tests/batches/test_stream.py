from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from esm1b.alphabet import X, merge_rare_residues
from esm1b.batches.order import SequenceOrder
from esm1b.batches.stream import BatchRecipe, MicroBatch, UpdateStream, make_batch
from esm1b.corpus.tokens import TokenDataset, open_tokens

RECIPE = BatchRecipe(crop_residues=50, append_eos=True, rare_residues="replace", seed=1)
KEEP = BatchRecipe(crop_residues=50, append_eos=True, rare_residues="keep", seed=1)


@pytest.fixture(scope="module")
def dataset(tokens_directory: Path) -> TokenDataset:
    return open_tokens(tokens_directory, "train")


def stream(
    dataset: TokenDataset, micro_batch_tokens: int = 700, rank: int = 0, processes: int = 1
) -> UpdateStream:
    order = SequenceOrder(dataset.lengths, crop_residues=50, tokens_per_update=2000, seed=1)
    return UpdateStream(
        dataset,
        order,
        RECIPE,
        micro_batch_tokens=micro_batch_tokens,
        width=16,
        rank=rank,
        processes=processes,
    )


def contents(batches: list[MicroBatch]) -> list[tuple[bytes, tuple[tuple[int, int], ...]]]:
    """Return, sorted, the tokens of every sequence and its (place, target) of masks."""
    found = []
    for batch in batches:
        ends = np.cumsum(batch.lengths)
        for start, end in zip(ends - batch.lengths, ends, strict=True):
            inside = (batch.masked_positions >= start) & (batch.masked_positions < end)
            places = (batch.masked_positions[inside] - start).tolist()
            masks = tuple(zip(places, batch.targets[inside].tolist(), strict=True))
            if end - start > 2:
                found.append((batch.tokens[start:end].tobytes(), masks))
    return sorted(found)


def restored(batch: MicroBatch) -> list[list[int]]:
    """Return the tokens of each sequence before masking."""
    tokens = batch.tokens.copy()
    tokens[batch.masked_positions] = batch.targets
    return [part.tolist() for part in np.split(tokens, np.cumsum(batch.lengths)[:-1])]


def test_sequences_are_framed_and_merged(dataset: TokenDataset) -> None:
    short = np.flatnonzero(dataset.lengths <= 50)[:20]
    batch = make_batch(dataset, short, np.zeros_like(short), RECIPE)
    expected = [[0, *merge_rare_residues(dataset.residues(i)).tolist(), 2] for i in short.tolist()]
    assert restored(batch) == expected
    assert batch.lengths.tolist() == [len(part) for part in expected]
    assert {array.dtype for array in vars(batch).values()} == {np.dtype(np.int64)}
    kept = make_batch(dataset, short, np.zeros_like(short), KEEP)
    assert restored(kept) == [[0, *dataset.residues(i).tolist(), 2] for i in short.tolist()]


def test_merged_residues_are_never_masked(dataset: TokenDataset) -> None:
    every = np.arange(len(dataset))
    batch = make_batch(dataset, every, np.zeros_like(every), RECIPE)
    assert batch.targets.max() < X
    assert set(batch.tokens.tolist()) & {25, 26, 27, 28} == set()
    kept = make_batch(dataset, every, np.zeros_like(every), KEEP)
    assert set(kept.targets.tolist()) & {25, 26, 27, 28}
    assert X not in kept.targets


def test_crops_keep_both_special_tokens(dataset: TokenDataset) -> None:
    long = np.flatnonzero(dataset.lengths > 50)
    for epoch in range(3):
        batch = make_batch(dataset, long, np.full_like(long, epoch), RECIPE)
        assert set(batch.lengths.tolist()) == {52}
        for index, part in zip(long.tolist(), restored(batch), strict=True):
            whole = bytes(merge_rare_residues(dataset.residues(index)).tolist())
            assert part[0] == 0
            assert part[-1] == 2
            assert bytes(part[1:-1]) in whole


def test_without_eos(dataset: TokenDataset) -> None:
    recipe = BatchRecipe(crop_residues=50, append_eos=False, rare_residues="keep", seed=1)
    chosen = np.arange(12)
    batch = make_batch(dataset, chosen, np.zeros_like(chosen), recipe)
    assert batch.lengths.tolist() == (np.minimum(dataset.lengths[:12], 50) + 1).tolist()
    assert all(part[0] == 0 and 2 not in part for part in restored(batch))


def test_crops_are_uniform_and_new_each_epoch(dataset: TokenDataset) -> None:
    longest = int(np.argmax(dataset.lengths))
    whole = bytes(dataset.residues(longest).tolist())
    epochs = np.arange(4000)
    batch = make_batch(dataset, np.full_like(epochs, longest), epochs, KEEP)
    places = [whole.find(bytes(part[1:-1])) for part in restored(batch)]
    counts = np.bincount(places, minlength=len(whole) - 49)
    assert len(counts) == len(whole) - 50 + 1  # none before the first or after the last
    assert stats.chisquare(counts).pvalue > 1e-3
    changes = np.mean(np.diff(places) != 0)
    assert changes > 0.9


def test_no_sequences_make_a_batch_that_trains_nothing(dataset: TokenDataset) -> None:
    nothing = np.empty(0, dtype=np.int64)
    batch = make_batch(dataset, nothing, nothing, RECIPE)
    assert batch.tokens.tolist() == [0, 2]
    assert batch.lengths.tolist() == [2]
    assert batch.masked_positions.tolist() == []
    assert batch.targets.tolist() == []


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("micro_batch_tokens", [300, 900, 10_000])
def test_an_update_is_the_same_for_every_layout(
    dataset: TokenDataset, processes: int, micro_batch_tokens: int
) -> None:
    for number in (0, 3, 4, 17):  # update 3 or 4 spans the first two epochs
        whole = make_update_alone(dataset, number)
        ranks = [
            stream(dataset, micro_batch_tokens, rank, processes).update(number)
            for rank in range(processes)
        ]
        assert len({len(batches) for batches in ranks}) == 1  # as many rounds everywhere
        assert contents([batch for batches in ranks for batch in batches]) == whole
        if micro_batch_tokens == 300:
            assert len(ranks[0]) > 1


def make_update_alone(
    dataset: TokenDataset, number: int
) -> list[tuple[bytes, tuple[tuple[int, int], ...]]]:
    """Return what update `number` holds, every sequence in a batch of its own."""
    order = SequenceOrder(dataset.lengths, crop_residues=50, tokens_per_update=2000, seed=1)
    held = order.update(number)
    pairs = zip(held.sequences, held.epochs, strict=True)
    return contents([make_batch(dataset, np.array([s]), np.array([e]), RECIPE) for s, e in pairs])


def test_an_update_that_spans_two_epochs(dataset: TokenDataset) -> None:
    order = SequenceOrder(dataset.lengths, crop_residues=50, tokens_per_update=2000, seed=1)
    spanning = order.tokens_per_epoch // 2000
    assert sorted(set(order.update(spanning).epochs.tolist())) == [0, 1]
    assert contents(stream(dataset).update(spanning)) == make_update_alone(dataset, spanning)


def test_more_processes_than_sequences(dataset: TokenDataset) -> None:
    order = SequenceOrder(dataset.lengths, crop_residues=50, tokens_per_update=60, seed=1)
    streams = [
        UpdateStream(
            dataset, order, RECIPE, micro_batch_tokens=1000, width=16, rank=rank, processes=8
        )
        for rank in range(8)
    ]
    batches = [batch for stream in streams for batch in stream.update(0)]
    assert len(batches) == 8
    sequences = len(order.update(0).sequences)
    assert 0 < sequences < 8
    assert sum(batch.tokens.tolist() == [0, 2] for batch in batches) == 8 - sequences


def test_preparing_ahead_changes_nothing(dataset: TokenDataset) -> None:
    ahead = list(stream(dataset).updates(2, 9))
    assert len(ahead) == 7
    for number, batches in zip(range(2, 9), ahead, strict=True):
        alone = stream(dataset).update(number)
        for ours, theirs in zip(batches, alone, strict=True):
            assert ours.tokens.tolist() == theirs.tokens.tolist()
            assert ours.masked_positions.tolist() == theirs.masked_positions.tolist()
    assert list(stream(dataset).updates(4, 4)) == []


def test_an_error_while_preparing_reaches_the_loop(
    dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = stream(dataset)

    def fail(number: int) -> list[MicroBatch]:
        raise OSError(f"update {number}")

    monkeypatch.setattr(prepared, "update", fail)
    with pytest.raises(OSError, match="update 5"):
        next(prepared.updates(5, 8))
