"""Stopping when asked to, and not in the middle of a write."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final

from esm1b.errors import Stopped

__all__ = ["StopRequests"]

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
