"""Options of a run that change its speed, not its result."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from esm1b.model.attention_plan import AttentionPath


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a run is laid out on the hardware.

    Attributes:
        micro_batch_tokens: mean tokens of a micro-batch.
        zero_stage: state that DeepSpeed divides among processes: nothing (0), optimiser state (1),
            gradients too (2), weights too (3).
        threads: CPU threads of each process.
        device: "auto" is CUDA where available, with one GPU for each process.
        attention: "auto" is varlen on CUDA in bf16 and fp16, sdpa elsewhere.
        activation_checkpointing: less memory for the backward pass, which repeats the forward pass.
        compile: compiled layers; every micro-batch is then filled up to a fixed size.
        deepspeed_file: JSON file of DeepSpeed settings that override ours.
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
    """Options of the processes of a run.

    Attributes:
        loader_workers: threads that prepare batches ahead; 0 prepares each batch on demand.
        preload: read the tokens into memory at the start instead of mapping their files.
        verify: compare the tokens with their digests at the start, not only their sizes.
        stop_after_seconds: time after which the run saves and stops.
        wandb_project: Weights & Biases project that receives the metrics too.
        automatic_micro_batch: largest micro-batch that fits the device, instead of the layout's.
    """

    loader_workers: int = 1
    preload: bool = False
    verify: bool = False
    stop_after_seconds: int | None = None
    wandb_project: str | None = None
    automatic_micro_batch: bool = False
