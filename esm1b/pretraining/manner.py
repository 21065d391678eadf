"""How a run is run, apart from the layout."""

from dataclasses import dataclass

__all__ = ["Manner"]


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a run is run; nothing here changes what it computes.

    Attributes:
        loader_workers: threads that prepare batches ahead; 0 prepares them when they are needed.
        preload: read the tokens into memory at the start instead of mapping their files.
        verify: compare the tokens with their digests at the start; else only sizes are looked at.
        stop_after_seconds: save and stop when so much time has passed.
        wandb_project: of Weights & Biases, to log there too.
        automatic_micro_batch: take the largest micro-batch that the device has memory for.
    """

    loader_workers: int = 1
    preload: bool = False
    verify: bool = False
    stop_after_seconds: int | None = None
    wandb_project: str | None = None
    automatic_micro_batch: bool = False
