"""Asking a run to stop: by a signal, when its time is up, or when its launcher died."""

import signal
from types import FrameType, TracebackType
from typing import Any, Final, Self

from esm1b.pretraining.time_budget import TimeBudget

__all__ = ["StopRequest"]

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
    """Turns SIGTERM, SIGINT and SIGUSR1 into a flag that the loop reads; a context manager.

    Args:
        budget: of time; when it is spent, that is a request too.
    """

    def __init__(self, budget: TimeBudget) -> None:
        self._budget = budget
        self._asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def ask(self) -> None:
        """Ask to stop; from any thread."""
        self._asked = True

    def is_made(self) -> bool:
        """Return whether the run is to stop."""
        return self._asked or self._budget.is_spent()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
