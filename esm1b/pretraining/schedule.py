"""The learning rate of each update."""

import math


def inverse_square_root(update: int, *, peak: float, warmup_updates: int) -> float:
    """Return the learning rate of `update`, counted from 1.

    Linear from 0 to `peak` over the warmup, then `peak * sqrt(warmup / update)` (fairseq
    `optim/lr_scheduler/inverse_square_root_schedule.py`).
    """
    if update <= warmup_updates:
        return peak * update / warmup_updates
    return peak * math.sqrt(warmup_updates / update)
