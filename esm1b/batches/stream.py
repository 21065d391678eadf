"""Micro-batches ready to train, prepared ahead of the update that needs them."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from time import perf_counter
from typing import Final

from esm1b.batches.micro_batch import BatchRecipe, MicroBatch, make_batch
from esm1b.batches.order import SequenceOrder
from esm1b.batches.packing import share_out
from esm1b.corpus.tokens.dataset import TokenDataset

_UPDATES_AHEAD_OF_A_WORKER: Final = 2


@dataclass
class UpdateStream:
    """The micro-batches of one process, update after update; sizes as in `share_out`.

    `workers` threads prepare updates ahead; with 0 each is prepared on demand. `pin_memory` puts
    the arrays in page-locked memory, from which a GPU copies while the host continues.
    """

    dataset: TokenDataset
    order: SequenceOrder
    recipe: BatchRecipe
    _: KW_ONLY
    micro_batch_tokens: int
    width: int
    rank: int = 0
    processes: int = 1
    workers: int = 1
    pin_memory: bool = False
    _waited: float = field(default=0.0, init=False)

    def update(self, number: int) -> list[MicroBatch]:
        """Return this process's micro-batches of update `number`, counted from 0.

        Every process has the same number of them.
        """
        members = self.order.update(number)
        shares = share_out(
            self.recipe.framed_lengths(self.dataset.lengths[members.sequences]),
            micro_batch_tokens=self.micro_batch_tokens,
            maximum_tokens=self.recipe.maximum_tokens,
            width=self.width,
            processes=self.processes,
            mean_tokens=self.order.tokens_per_update,
        )
        batches = [
            make_batch(self.dataset, members.sequences[share], members.epochs[share], self.recipe)
            for share in shares[self.rank :: self.processes]
        ]
        return [batch.pinned() for batch in batches] if self.pin_memory else batches

    def updates(self, first: int, last: int) -> Iterator[list[MicroBatch]]:
        """Yield updates `first` to `last` - 1, prepared a few updates ahead."""
        waiting = perf_counter()
        for batches in self._prepared(range(first, last)):
            self._waited += perf_counter() - waiting
            yield batches
            waiting = perf_counter()

    def take_wait(self) -> float:
        """Return the seconds that `updates` kept its caller waiting since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited

    def _prepared(self, numbers: range) -> Iterator[list[MicroBatch]]:
        if self.workers == 0:
            yield from map(self.update, numbers)
            return
        executor = ThreadPoolExecutor(self.workers, thread_name_prefix="batches")
        ahead: deque[Future[list[MicroBatch]]] = deque()
        try:
            for number in numbers:
                ahead.append(executor.submit(self.update, number))
                if len(ahead) > _UPDATES_AHEAD_OF_A_WORKER * self.workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            executor.shutdown(cancel_futures=True)
