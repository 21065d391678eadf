"""Asking a run to stop: by a signal, when its time is up, or when its launcher died."""

import signal
from types import FrameType, TracebackType
from typing import Any, Final, Self

from esm1b.pretraining.time_budget import TimeBudget

__all__ = ["StopRequest"]

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
    """Turns SIGTERM, SIGINT and SIGUSR1 into a flag that the loop reads; a context manager.

    It says why, too: who finds a run stopped wants to know what stopped it.

    Args:
        budget: of time; when it is spent, that is a request too.
    """

    def __init__(self, budget: TimeBudget) -> None:
        self._budget = budget
        self._reason: str | None = None
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

    def ask(self, reason: str) -> None:
        """Ask to stop because of `reason`; from any thread. The first reason counts."""
        self._reason = self._reason or reason

    def is_made(self) -> bool:
        """Return whether the run is to stop."""
        return self.reason() is not None

    def reason(self) -> str | None:
        """Return why the run is to stop; None where it is not."""
        if self._budget.is_spent():
            self.ask("its time is up")
        return self._reason

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.ask(signal.Signals(number).name)
