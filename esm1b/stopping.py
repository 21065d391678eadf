"""Stopping on request, and never in the middle of a write."""

import math
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, Self

from esm1b.errors import Stopped, UserError

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
    """A request to stop, which a loop reads: made by a signal, by a thread or by the clock.

    `seconds` are a time budget that starts now; None for no limit.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._end = math.inf if seconds is None else time.monotonic() + seconds
        self._reason: str | None = None

    @contextmanager
    def from_signals(self) -> Iterator[Self]:
        """Take SIGTERM, SIGINT and SIGUSR1 as requests within the block.

        Only the main thread receives signals; in any other thread nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def ask(self, reason: str) -> None:
        """Ask to stop, from any thread. The first reason counts."""
        self._reason = self._reason or reason

    def reason(self) -> str | None:
        """Return why to stop; None without a request."""
        if time.monotonic() >= self._end:
            self.ask("its time is up")
        return self._reason

    def is_made(self) -> bool:
        """Return whether there is a request."""
        return self.reason() is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.ask(signal.Signals(number).name)


class StopAtOnce(StopRequest):
    """A request that raises `Stopped` wherever the main thread is.

    For work that is lost when it stops half-way but cheap to repeat.
    """

    _is_held_back = False

    def ask(self, reason: str) -> None:
        """Raise `Stopped`, or let `held_back` raise it at its end."""
        super().ask(reason)
        if not self._is_held_back:
            raise Stopped("a signal asked to")

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Put a request off until the end of this block."""
        self._is_held_back = True
        try:
            yield
        finally:
            self._is_held_back = False
        if self.is_made():
            raise Stopped("a signal asked to")


_DURATION: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")
_SECONDS: Final = (86_400, 3_600, 60, 1)


def parse_duration(text: str, *, name: str = "duration") -> int:
    """Return the seconds of a duration such as `23h30m`, `90m`, `1d12h` or `3600`.

    Raises:
        UserError: `text`, called `name` in the message, is not a duration, or is zero.
    """
    match = _DURATION.fullmatch(text)
    parts = match.groups(default="0") if match else ()
    seconds = sum(int(part) * unit for part, unit in zip(parts, _SECONDS, strict=False))
    if seconds == 0:
        raise UserError(f"{name}: {text!r}; expected a duration such as 23h30m, 90m or 3600")
    return seconds
