"""Options of a run that change its speed, not its result."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from esm1b.model.attention_plan import AttentionPath


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
    """

    loader_workers: int = 1
    preload: bool = False
    verify: bool = False
    stop_after_seconds: int | None = None
    wandb_project: str | None = None
    automatic_micro_batch: bool = False
    records: Path | None = None
    mirror: str | None = None
