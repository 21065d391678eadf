"""Options of a run that change its speed, not its result."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from esm1b.model.attention_plan import AttentionPath
from esm1b.pretraining.distributed.rendezvous import LIMITS
from esm1b.pretraining.distributed.watchdog import HANG_SECONDS


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a run is laid out on the hardware: options of `esm1b pretrain`, see its `--help`.

    Attempts with different layouts are different attempts; see `AttemptLog`.
    """

    micro_batch_tokens: int = 4096
    zero_stage: Literal[0, 1, 2, 3] = 1
    threads: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    attention: AttentionPath = "auto"
    activation_checkpointing: bool = False
    compile: bool = False
    deepspeed_file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The other options of `esm1b pretrain`, see its `--help`.

    Attributes:
        automatic_micro_batch: largest micro-batch that fits the device, instead of the layout's.
        start_limit_seconds: longest wait for each step that all processes take at the start.
        save_minutes: longest time from one save to the next; None for the recipe's updates only.
        hang_limit_seconds: longest silence of a process, and longest wait for it.
    """

    loader_workers: int = 1
    preload: bool = False
    verify: bool = False
    stop_after_seconds: int | None = None
    save_minutes: float | None = None
    wandb_project: str | None = None
    automatic_micro_batch: bool = False
    records: Path | None = None
    start_limit_seconds: float = LIMITS.come
    hang_limit_seconds: float = HANG_SECONDS
    mirror: str | None = None
