"""What the machine decides about a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from esm1b.model.attention_plan import AttentionPath


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the machine decides; it changes the speed of a run, not its batches.

    Attributes:
        micro_batch_tokens: tokens that a process takes at once, about.
        zero_stage: what DeepSpeed divides among processes: nothing (0), optimiser state (1),
            gradients too (2), weights too (3).
        threads: CPU threads of each process.
        device: "auto" is CUDA where there is any, one GPU for each process.
        attention: how tokens attend; "auto" is varlen on CUDA in bf16 and fp16, sdpa elsewhere.
        activation_checkpointing: keep less for the backward pass and compute it again.
        compile: compile the layers; every micro-batch is then filled up to a fixed size.
        deepspeed_file: JSON with settings of DeepSpeed's that win over ours.
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
