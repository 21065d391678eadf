"""Python values between processes: everyone knows what everyone found, and all fail together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed

from esm1b.errors import RunFailure, SharedUserError, UserError
from esm1b.pretraining.distributed.place import Place

T = TypeVar("T")


class ActionError(RunFailure):
    """What was done in every process failed in one; the message, of one line, is the same in all.

    A collective that fails itself, because a process is gone, is no such error.
    """


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What an action came to in one process; `failure` is its message."""

    value: Any = None
    failure: str | None = None
    is_users: bool = False


def gathered(value: T, place: Place) -> list[T]:
    """Return every process's `value`, by rank. Collective."""
    if place.processes == 1:
        return [value]
    values: list[Any] = [None] * place.processes
    torch.distributed.all_gather_object(values, value)
    return values


def everywhere(action: Callable[[], T], place: Place) -> list[T]:
    """Do `action` in every process and return all results, by rank. Collective.

    Raises:
        UserError: one process or more raised one; every process raises the first of them.
        ActionError: it failed otherwise; every process says in which one and why.
    """
    caught: Exception | None = None
    try:
        mine = _Outcome(value=action())
    except Exception as error:  # whatever it is, the others must not wait for ever
        caught = error
        mine = _Outcome(failure=one_line(error), is_users=isinstance(error, UserError))
    outcomes = gathered(mine, place)
    failures = [(rank, found) for rank, found in enumerate(outcomes) if found.failure is not None]
    for _, found in failures:
        if found.is_users:
            raise SharedUserError(found.failure) from caught
    for rank, found in failures:
        where = f"process {rank + 1} of {place.processes}: " if place.processes > 1 else ""
        raise ActionError(f"{where}{found.failure}") from caught
    return [found.value for found in outcomes]


def on_first(action: Callable[[], T], place: Place) -> T:
    """Do `action` in the first process and return its result in every one. Collective.

    Raises:
        UserError: the action's own, in every process.
        ActionError: it failed otherwise; every process says why.
    """
    results: list[Any] = everywhere(lambda: action() if place.rank == 0 else None, place)
    result: T = results[0]
    return result


def one_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
