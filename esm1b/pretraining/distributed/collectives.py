"""Values between processes: all learn what each of them found, and all fail together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar, cast

import torch
import torch.distributed
from torch import Tensor

from esm1b.errors import RunFailure, SharedUserError, UserError, one_line
from esm1b.pretraining.distributed.place import Place

T = TypeVar("T")


class ActionError(RunFailure):
    """An action that all processes ran failed in at least one.

    Every process raises it with the same one-line message. A collective that fails because a
    process is gone raises the error of torch instead; see `liveness.is_lost_peer`.
    """


def gathered(value: T, place: Place) -> list[T]:
    """Return every process's `value`, by rank. Collective."""
    if place.processes == 1:
        return [value]
    values: list[Any] = [None] * place.processes
    torch.distributed.all_gather_object(values, value)
    return values


def everywhere(action: Callable[[], T], place: Place) -> list[T]:
    """Run `action` in every process and return all results, by rank. Collective.

    Raises:
        UserError: at least one process raised one; every process raises the first of them.
        RunFailure: at least one process raised one; every process raises the like.
        ActionError: the action failed otherwise; every process says in which process and why.
    """
    caught: Exception | None = None
    mine: T | SharedUserError | RunFailure
    try:
        mine = action()
    except Exception as error:  # whatever it is, the others must not wait forever
        caught = error
        where = f"process {place.rank + 1} of {place.processes}: " if place.processes > 1 else ""
        mine = ActionError(where + one_line(error))
        if isinstance(error, UserError):
            mine = SharedUserError(one_line(error))
        elif isinstance(error, RunFailure):
            mine = type(error)(one_line(error))
    outcomes: list[Any] = gathered(mine, place)
    for kind in (SharedUserError, RunFailure):
        for outcome in outcomes:
            if isinstance(outcome, kind):
                raise outcome from caught
    return outcomes


def on_first(action: Callable[[], T], place: Place) -> T:
    """Run `action` in the first process and return its result in every one. Collective.

    Raises:
        UserError: the action raised it; every process raises it.
        ActionError: the action failed otherwise; every process says why.
    """
    return cast(T, everywhere(lambda: action() if place.rank == 0 else None, place)[0])


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Masked positions, tokens, and tokens with fillers of an update, over all processes.

    Attributes:
        stop: True if any process asks to stop before this update.
        save: True if any process asks to save after this update.
        shares_written: number of processes that have written, or failed to write, their share of
            the checkpoint under way.
    """

    masked: int
    tokens: int
    padded: int
    stop: bool
    save: bool
    shares_written: int


class Agreement:
    """Sums over the processes that are under way while an update is computed.

    The numbers of update k + 1 are started before update k and finished before update k + 1, so
    that nobody waits for them, and a request to stop acts one update later in all processes alike.
    The tensors are on the CPU in a gloo group of their own: no device is synchronised, and the
    order of collectives on the device stays free.

    Collective: all processes open it, and start and finish the same updates.
    """

    def __init__(self, group: torch.distributed.ProcessGroup) -> None:
        self._group = group
        self._started: tuple[Tensor, torch.distributed.Work] | None = None

    @classmethod
    @contextmanager
    def open(cls, *, timeout_seconds: float = 100) -> Iterator[Self]:
        """Yield an agreement; its `finish` waits at most so long for a process that starts late."""
        timeout = timedelta(seconds=timeout_seconds)
        group = torch.distributed.new_group(backend="gloo", timeout=timeout)
        # A process without updates would leave at once, while another is still connecting to it.
        torch.distributed.barrier(group)
        yield cls(group)
        # Not after an error: leaving could wait for processes that are gone. The group then goes
        # with the default group or the process.
        torch.distributed.destroy_process_group(group)

    def start(
        self, *, masked: int, tokens: int, padded: int, stop: bool, save: bool, is_written: bool
    ) -> None:
        """Send this process's numbers of the next update, once the one before is finished."""
        sums = torch.tensor([masked, tokens, padded, stop, save, is_written], dtype=torch.int64)
        work = torch.distributed.all_reduce(sums, group=self._group, async_op=True)
        assert work is not None
        self._started = (sums, work)

    def finish(self) -> Totals:
        """Return the totals of the update that was started last.

        Raises:
            RuntimeError: a process went away, or did not start that update in time.
        """
        assert self._started is not None, "no update is started"
        sums, work = self._started
        work.wait()
        self._started = None
        masked, tokens, padded, stop, save, written = sums.tolist()
        return Totals(
            masked=masked,
            tokens=tokens,
            padded=padded,
            stop=stop > 0,
            save=save > 0,
            shares_written=written,
        )
