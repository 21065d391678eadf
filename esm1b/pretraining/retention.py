"""Which checkpoints stay, and whether there is room for them."""

import os
import shutil
from pathlib import Path
from typing import Final

from esm1b.errors import UserError
from esm1b.pretraining import checkpoint_files

__all__ = ["check_free_space", "remove", "remove_leftovers", "remove_newer", "remove_old"]

# A float32 weight and its two moments.
_BYTES_PER_PARAMETER: Final = 12
# What the names, shapes and digests of a checkpoint take at most, about.
_BYTES_BESIDES: Final = 2**20


def remove_old(directory: Path, *, keep: int, every: int | None) -> None:
    """Remove checkpoints but the newest `keep`, and those of each `every`-th update.

    It is called after a save, which read back what it wrote, so one that is whole stays.

    Raises:
        ValueError: `keep` is less than 1.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}; expected 1 or more")
    for updates, path in list(checkpoint_files.checkpoints(directory).items())[:-keep]:
        if every is None or updates % every:
            remove(path)


def remove_newer(directory: Path, *, than: int) -> None:
    """Remove the damaged checkpoints that `load_newest` passed over: those after update `than`."""
    for updates, path in checkpoint_files.checkpoints(directory).items():
        if updates > than:
            remove(path)


def remove_leftovers(directory: Path) -> None:
    """Remove what an interrupted save or removal left."""
    for path in directory.glob(".update-*"):
        shutil.rmtree(path)


def remove(path: Path) -> None:
    """Remove a checkpoint; interrupted, it is gone all the same, and no damaged one is left."""
    hidden = path.with_name(f".{path.name}.removed")
    shutil.rmtree(hidden, ignore_errors=True)
    os.rename(path, hidden)
    shutil.rmtree(hidden)


def check_free_space(directory: Path, *, parameters: int, checkpoints: int) -> None:
    """Check that `directory` has room for so many checkpoints, those it holds counted in.

    Raises:
        UserError: naming the bytes that are free and those needed.
    """
    size = _BYTES_PER_PARAMETER * parameters + _BYTES_BESIDES
    missing = max(checkpoints - len(checkpoint_files.checkpoints(directory)), 1)
    free = shutil.disk_usage(directory).free
    if free < missing * size:
        raise UserError(
            f"{directory}: {free:,} bytes are free; expected {missing * size:,} for {missing} more "
            f"checkpoints of {size:,} bytes, or fewer pretraining.checkpoints_kept"
        )
