"""Learning which updates were skipped without waiting for the device."""

from collections import deque

import torch
from torch import Tensor

__all__ = ["Skips"]


class Skips:
    """Flags of updates, read when the device is done with them.

    A flag is copied to the host behind its update and read when the next update is under way, so
    that the device never runs dry.
    """

    def __init__(self) -> None:
        self._flags: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def push(self, update: int, skipped: Tensor) -> None:
        """Add the flag of `update`, bool `[]` on the device."""
        if skipped.is_cuda:
            flag = torch.empty((), dtype=torch.bool, pin_memory=True)
            flag.copy_(skipped, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
            self._flags.append((update, flag, copied))
        else:
            self._flags.append((update, skipped, None))

    def known(self, *, but_newest: int) -> list[tuple[int, bool]]:
        """Return (update, whether it was skipped) of all that wait to be read, oldest first.

        Args:
            but_newest: flags that are left to wait.
        """
        found = []
        while len(self._flags) > but_newest:
            update, flag, copied = self._flags.popleft()
            if copied is not None:
                copied.synchronize()
            found.append((update, bool(flag)))
        return found
