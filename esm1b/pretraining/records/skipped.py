"""What an update that was skipped would have trained on."""

from dataclasses import dataclass

__all__ = ["SkippedUpdate"]


@dataclass(frozen=True, kw_only=True)
class SkippedUpdate:
    """An update whose gradient was not finite, so that it changed nothing.

    Attributes:
        update: its number, counted from 1.
        epochs: epoch of each of its sequences.
        sequences: index of each of its sequences in the training tokens.
    """

    update: int
    epochs: list[int]
    sequences: list[int]
