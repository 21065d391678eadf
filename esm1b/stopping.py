"""Stopping when asked to, and not in the middle of a write."""

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final, Self

from esm1b.errors import Stopped, UserError

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequests:
    """Turns SIGTERM, SIGINT and SIGUSR1 into `Stopped`, raised wherever the block is.

    For work that is lost when it stops half-way but cheap to do again, so that nobody waits for it.
    Only the main thread hears signals; in another one nothing happens.
    """

    def __init__(self) -> None:
        self._asked = False
        self._holding_back = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Keep a request until the end of this block."""
        self._holding_back = True
        try:
            yield
        finally:
            self._holding_back = False
        if self._asked:
            raise Stopped("a signal asked to")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if not self._holding_back:
            raise Stopped("a signal asked to")


_DURATION: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")
_SECONDS: Final = (86_400, 3_600, 60, 1)


def parse_duration(text: str, *, name: str = "duration") -> int:
    """Return the seconds of a duration such as `23h30m`, `90m`, `1d12h` or `3600`.

    Args:
        text: days, hours, minutes and seconds in this order; a bare number is seconds.
        name: what to call it in an error.

    Raises:
        UserError: `text` is no such duration, or no time at all.
    """
    match = _DURATION.fullmatch(text)
    parts = match.groups(default="0") if match else ()
    seconds = sum(int(part) * unit for part, unit in zip(parts, _SECONDS, strict=False))
    if seconds == 0:
        raise UserError(f"{name}: {text!r}; expected a duration such as 23h30m, 90m or 3600")
    return seconds


class TimeBudget:
    """Seconds that run from the construction on.

    Args:
        seconds: how many there are; None for no end.
        clock: seconds of a clock that never goes back.
    """

    def __init__(
        self, seconds: float | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._end = None if seconds is None else clock() + seconds

    def is_spent(self) -> bool:
        """Return whether the time is up."""
        return self._end is not None and self._clock() >= self._end


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
