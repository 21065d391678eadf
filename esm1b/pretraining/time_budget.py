"""A run that stops by itself before its time on a machine is up."""

import re
import time
from collections.abc import Callable
from typing import Final

from esm1b.errors import UserError

__all__ = ["TimeBudget", "parse_duration"]

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
