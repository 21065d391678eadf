import hashlib
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from esm1b.alphabet import X, merge_rare_residues
from esm1b.batches.micro_batch import BatchRecipe, MicroBatch, make_batch
from esm1b.batches.order import SequenceOrder
from esm1b.batches.packing import share_out
from esm1b.batches.stream import UpdateStream
from esm1b.corpus.tokens.dataset import TokenDataset, open_tokens
from tests.conftest import residues

RECIPE = BatchRecipe(crop_residues=50, append_eos=True, rare_residues="replace", seed=1)
KEEP = BatchRecipe(crop_residues=50, append_eos=True, rare_residues="keep", seed=1)


@pytest.fixture(scope="module")
def dataset(tokens_directory: Path) -> TokenDataset:
    return open_tokens(tokens_directory, "train")


def stream(
    dataset: TokenDataset,
    micro_batch_tokens: int = 700,
    rank: int = 0,
    processes: int = 1,
    *,
    workers: int = 1,
    tokens_per_update: int = 2000,
    pin_memory: bool = False,
) -> UpdateStream:
    order = SequenceOrder(
        dataset.lengths, crop_residues=50, tokens_per_update=tokens_per_update, seed=1
    )
    return UpdateStream(
        dataset,
        order,
        RECIPE,
        micro_batch_tokens=micro_batch_tokens,
        width=16,
        rank=rank,
        processes=processes,
        workers=workers,
        pin_memory=pin_memory,
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
    expected = [[0, *merge_rare_residues(residues(dataset, i)).tolist(), 2] for i in short.tolist()]
    assert restored(batch) == expected
    assert batch.lengths.tolist() == [len(part) for part in expected]
    assert {array.dtype for array in vars(batch).values()} == {np.dtype(np.int64)}
    kept = make_batch(dataset, short, np.zeros_like(short), KEEP)
    assert restored(kept) == [[0, *residues(dataset, i).tolist(), 2] for i in short.tolist()]


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
            whole = bytes(merge_rare_residues(residues(dataset, index)).tolist())
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
    whole = bytes(residues(dataset, longest).tolist())
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


@pytest.fixture(scope="module")
def digests(dataset: TokenDataset) -> list[str]:
    """Digests of updates 0 to 7, every sequence of which is made alone."""
    return [digest(make_update_alone(dataset, number)) for number in range(8)]


def digest(content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("micro_batch_tokens", [300, 900, 10_000])
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_an_update_is_the_same_for_every_layout(
    dataset: TokenDataset,
    digests: list[str],
    processes: int,
    micro_batch_tokens: int,
    workers: int,
) -> None:
    # update 3 or 4 spans the first two epochs
    ranks = [
        list(stream(dataset, micro_batch_tokens, rank, processes, workers=workers).updates(0, 8))
        for rank in range(processes)
    ]
    rounds = max(1, -(-2000 // (micro_batch_tokens * processes)))
    for number, by_rank in enumerate(zip(*ranks, strict=True)):
        assert {len(batches) for batches in by_rank} == {rounds}
        every = [batch for batches in by_rank for batch in batches]
        assert digest(contents(every)) == digests[number]
        assert max(len(batch.tokens) for batch in every) <= micro_batch_tokens + 52


@pytest.mark.parametrize("number", [0, 1, 77])
def test_an_update_of_a_tiny_corpus_spans_many_epochs(dataset: TokenDataset, number: int) -> None:
    per_epoch = int((np.minimum(dataset.lengths, 50) + 2).sum())
    batches = stream(dataset, tokens_per_update=3 * per_epoch + 100).update(number)
    assert abs(sum(len(batch.tokens) for batch in batches) - 3 * per_epoch - 100) <= 52
    sequences = sum(len(batch.lengths) for batch in batches)
    assert 3 * len(dataset) < sequences < 4 * len(dataset)
    # of one sequence in several epochs every copy is masked in its own way
    assert len(set(contents(batches))) > 0.95 * sequences


@pytest.mark.parametrize("processes", [1, 3])
def test_sequences_are_seen_as_often_as_the_position_says(
    dataset: TokenDataset, processes: int
) -> None:
    """Counted in the batches themselves, by the residues of sequences that are not cropped."""
    order = SequenceOrder(dataset.lengths, crop_residues=50, tokens_per_update=601, seed=1)
    names = [bytes(merge_rare_residues(residues(dataset, i)).tolist()) for i in range(len(dataset))]
    ranks = [
        stream(dataset, 200, rank, processes, tokens_per_update=601) for rank in range(processes)
    ]
    updates_of_an_epoch = order.tokens_per_epoch // 601 + 1
    seen: Counter[bytes] = Counter()
    for number in range(2 * updates_of_an_epoch):
        whole_epochs, sequences = divmod(order.sequences_seen(number), len(names))
        begun = order.permuted(whole_epochs, np.arange(sequences)).tolist()
        expected = Counter(dict.fromkeys(names, whole_epochs))
        expected.update(names[sequence] for sequence in begun)
        for name in names:
            assert len(name) > 50 or seen[name] == expected[name]
        for rank in ranks:
            seen.update(
                bytes(part[1:-1]) for batch in rank.update(number) for part in restored(batch)
            )
    assert order.sequences_seen(updates_of_an_epoch) // len(names) == 1


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


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_preparing_ahead_changes_nothing(dataset: TokenDataset, workers: int) -> None:
    ahead = list(stream(dataset, workers=workers).updates(2, 19))
    assert len(ahead) == 17
    for number, batches in zip(range(2, 19), ahead, strict=True):
        alone = stream(dataset).update(number)
        for ours, theirs in zip(batches, alone, strict=True):
            assert ours.tokens.tolist() == theirs.tokens.tolist()
            assert ours.masked_positions.tolist() == theirs.masked_positions.tolist()
    assert list(stream(dataset, workers=workers).updates(4, 4)) == []


def test_the_time_waited_is_counted(dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = [threading.Event() for _ in range(5)]

    def slow(number: int) -> list[MicroBatch]:
        time.sleep(0.2)
        prepared[number].set()
        return []

    for workers in (0, 1):
        updates = stream(dataset, workers=workers)
        monkeypatch.setattr(updates, "update", slow)
        assert updates.take_wait() == 0.0
        assert len(list(updates.updates(0, 3))) == 3
        assert updates.take_wait() > 0.59
        assert updates.take_wait() == 0.0
    # What a thread prepares while the caller is busy is not waited for.
    for event in prepared:
        event.clear()
    for number, _ in enumerate(updates.updates(0, 4)):
        assert number == 3 or prepared[number + 1].wait(timeout=60)
    assert 0.19 < updates.take_wait() < 0.59


def test_leaving_early_ends_the_threads(dataset: TokenDataset) -> None:
    before = set(threading.enumerate())
    updates = stream(dataset, workers=4).updates(0, 1000)
    next(updates)
    assert len(set(threading.enumerate()) - before) == 4
    updates.close()  # type: ignore[attr-defined]  # a generator
    assert set(threading.enumerate()) == before


def test_pinning_changes_nothing(dataset: TokenDataset) -> None:
    """Where there is no CUDA; where there is, see the test below."""
    ours = stream(dataset, pin_memory=True).update(3)
    assert contents(ours) == contents(stream(dataset).update(3))


@pytest.mark.gpu
def test_pinned_memory(dataset: TokenDataset) -> None:
    for batch in stream(dataset, pin_memory=True).update(3):
        for array in vars(batch).values():
            assert torch.from_numpy(array).is_pinned()


def test_shares_of_any_sequences(dataset: TokenDataset) -> None:
    sequences = np.arange(60, 120)
    tokens = RECIPE.framed_lengths(dataset.lengths[sequences])
    assert tokens.tolist() == (np.minimum(dataset.lengths[sequences], 50) + 2).tolist()
    share = partial(share_out, micro_batch_tokens=400, maximum_tokens=52, width=16, processes=2)
    shares = share(tokens)
    assert len(shares) == 2 * -(-int(tokens.sum()) // 800)
    assert sorted(np.concatenate(shares).tolist()) == list(range(60))
    assert max(tokens[part].sum() for part in shares) <= 452
    assert [part.tolist() for part in share(tokens[:0])] == [[], []]


def test_an_error_while_preparing_reaches_the_loop(
    dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = stream(dataset)

    def fail(number: int) -> list[MicroBatch]:
        raise OSError(f"update {number}")

    monkeypatch.setattr(prepared, "update", fail)
    with pytest.raises(OSError, match="update 5"):
        next(prepared.updates(5, 8))
