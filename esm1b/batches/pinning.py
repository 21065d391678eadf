"""Micro-batches in page-locked memory, from which a GPU copies while the host goes on."""

from dataclasses import fields, replace

import numpy as np
import torch
from numpy.typing import NDArray

from esm1b.batches.micro_batch import MicroBatch


def pinned(batch: MicroBatch) -> MicroBatch:
    """Return the same batch in page-locked memory, or as it is where there is no CUDA.

    Each array is a block of torch's own: torch then knows, by the address that a copy begins at,
    until when the block may not be used again.
    """
    if not torch.cuda.is_available():
        return batch
    return replace(
        batch, **{field.name: _pinned(getattr(batch, field.name)) for field in fields(batch)}
    )


def _pinned(array: NDArray[np.int64]) -> NDArray[np.int64]:
    block: NDArray[np.int64] = torch.from_numpy(array).pin_memory().numpy()
    return block
