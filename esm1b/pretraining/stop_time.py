"""How long a run takes from a request to stop until all is saved, measured as it goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from esm1b.stopping import StopRequest

# Assumed of the file system until the first save is measured, in bytes per second.
_ASSUMED_RATE: Final = 200e6
# From a request to the end there are at most two turns, of which one may save at its interval, and
# the last save; the rest is for a file system that is slower that time.
_TURNS: Final = 3


class StopTime:
    """Keeps a request informed of the time that stopping takes.

    A turn of the loop is an update and what is due after it, such as validation.

    Args:
        stop: request that must come early enough.
        checkpoint_bytes: size of a checkpoint.
    """

    def __init__(self, stop: StopRequest, *, checkpoint_bytes: int) -> None:
        self._stop = stop
        self._save = checkpoint_bytes / _ASSUMED_RATE
        self._longest_turn = 0.0
        self._turns = 0
        self._began = time.monotonic()
        self._tell()

    def turn(self, *, save_seconds: float | None) -> None:
        """Begin a turn of the loop.

        `save_seconds` is the longest time that a save took so far; None before the first one.
        """
        now = time.monotonic()
        if self._turns > 1:  # the first one may have compiled
            self._longest_turn = max(self._longest_turn, now - self._began)
        self._turns += 1
        self._began = now
        if save_seconds is not None:
            self._save = save_seconds
        self._tell()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Leave a block that saves out of the turn."""
        began = time.monotonic()
        yield
        self._began += time.monotonic() - began

    def _tell(self) -> None:
        self._stop.takes(_TURNS * (self._longest_turn + self._save))
