"""Micro-batches ready to train, prepared ahead of the update that needs them."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from esm1b.batches.micro_batch import BatchRecipe, MicroBatch, make_batch
from esm1b.batches.order import SequenceOrder
from esm1b.batches.packing import micro_batch_capacity, rounds_needed, share_out
from esm1b.batches.pinning import pinned
from esm1b.corpus.tokens.dataset import TokenDataset

_UPDATES_AHEAD_OF_A_WORKER: Final = 2


def share_sequences(
    dataset: TokenDataset,
    sequences: NDArray[np.int64],
    recipe: BatchRecipe,
    *,
    micro_batch_tokens: int,
    width: int,
    processes: int,
    mean_tokens: int | None = None,
) -> Sequence[NDArray[np.int64]]:
    """Return which of `sequences` each micro-batch holds: indices into the array, ascending.

    Of process r are the micro-batches r, r + processes, r + 2 processes and so on: as many for
    each process, some without sequences where there are few.

    Args:
        dataset: the tokens.
        sequences: int64 `[sequences]`, numbers in the corpus.
        recipe: how they become batches.
        micro_batch_tokens: how many tokens a process takes at once, on average.
        width: of the network, for balancing.
        processes: how many there are.
        mean_tokens: of an update, which then takes the same number of micro-batches as every
            other; default: the tokens of these sequences.
    """
    lengths = dataset.lengths[sequences].astype(np.int64)
    tokens = np.minimum(lengths, recipe.crop_residues) + recipe.special_tokens
    rounds = rounds_needed(
        int(tokens.sum()) if mean_tokens is None else mean_tokens,
        micro_batch_tokens=micro_batch_tokens,
        processes=processes,
    )
    return share_out(
        tokens,
        micro_batches=rounds * processes,
        width=width,
        capacity=micro_batch_capacity(micro_batch_tokens, recipe.maximum_tokens),
    )


class UpdateStream:
    """The micro-batches of one process, update after update.

    Args:
        dataset: the training tokens.
        order: which sequences each update holds.
        recipe: how they become batches.
        micro_batch_tokens: how many tokens a process takes at once.
        width: of the network, for balancing.
        rank: this process.
        processes: how many there are.
        workers: threads that prepare updates ahead, or 0 to prepare each when it is asked for.
        pin_memory: whether the arrays lie in page-locked memory, from which a GPU copies without
            waiting; without CUDA they never do.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        order: SequenceOrder,
        recipe: BatchRecipe,
        *,
        micro_batch_tokens: int,
        width: int,
        rank: int,
        processes: int,
        workers: int = 1,
        pin_memory: bool = False,
    ) -> None:
        self._dataset = dataset
        self._order = order
        self._recipe = recipe
        self._micro_batch_tokens = micro_batch_tokens
        self._width = width
        self._rank = rank
        self._processes = processes
        self._workers = workers
        self._pin_memory = pin_memory
        self._waited = 0.0

    def update(self, number: int) -> list[MicroBatch]:
        """Return this process's micro-batches of update `number`; every process has as many."""
        members = self._order.update(number)
        shares = share_sequences(
            self._dataset,
            members.sequences,
            self._recipe,
            micro_batch_tokens=self._micro_batch_tokens,
            width=self._width,
            processes=self._processes,
            mean_tokens=self._order.tokens_per_update,
        )
        batches = [
            make_batch(self._dataset, members.sequences[share], members.epochs[share], self._recipe)
            for share in shares[self._rank :: self._processes]
        ]
        return [pinned(batch) for batch in batches] if self._pin_memory else batches

    def updates(self, first: int, last: int) -> Iterator[list[MicroBatch]]:
        """Yield updates `first` to `last` - 1, a few of them prepared ahead."""
        waiting = perf_counter()
        for batches in self._prepared(range(first, last)):
            self._waited += perf_counter() - waiting
            yield batches
            waiting = perf_counter()

    def take_wait(self) -> float:
        """Return for how many seconds `updates` kept its caller waiting since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited

    def _prepared(self, numbers: range) -> Iterator[list[MicroBatch]]:
        if self._workers == 0:
            yield from map(self.update, numbers)
            return
        executor = ThreadPoolExecutor(self._workers, thread_name_prefix="batches")
        ahead: deque[Future[list[MicroBatch]]] = deque()
        try:
            for number in numbers:
                ahead.append(executor.submit(self.update, number))
                if len(ahead) > _UPDATES_AHEAD_OF_A_WORKER * self._workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            executor.shutdown(cancel_futures=True)
