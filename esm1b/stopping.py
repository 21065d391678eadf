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
_RESERVE_SECONDS: Final = 60.0
_RESERVE_SHARE: Final = 0.25


class StopRequest:
    """A request to stop, which a loop reads: made by a signal, by a thread or by the clock.

    Args:
        seconds: time budget that starts now; None for no limit.
        job_seconds: time from now until the scheduler ends the job; None for no limit. The request
            comes early enough to save, see `takes`.
    """

    def __init__(self, seconds: float | None = None, *, job_seconds: float | None = None) -> None:
        now = time.monotonic()
        self._end = math.inf if seconds is None else now + seconds
        self._job_end = math.inf if job_seconds is None else now + job_seconds
        # A quarter of a short job, which would be all reserve otherwise and never train.
        self._least = _RESERVE_SECONDS
        if job_seconds is not None:
            self._least = min(_RESERVE_SECONDS, job_seconds * _RESERVE_SHARE)
        self._reserve = self._least
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

    def takes(self, seconds: float) -> None:
        """Set the time that is kept for stopping before the job ends; a minute is the least."""
        self._reserve = max(self._least, seconds)

    def reason(self) -> str | None:
        """Return why to stop; None without a request."""
        now = time.monotonic()
        if now >= self._end:
            self.ask("its time is up")
        elif now >= self._job_end - self._reserve:
            self.ask(f"its job ends in {max(0, self._job_end - now):.0f} s")
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
