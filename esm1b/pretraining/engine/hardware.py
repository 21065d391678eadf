"""What the machine decides about a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from esm1b.batches.packing import micro_batch_capacity
from esm1b.model.attention_plan import AttentionPath

__all__ = ["Filling", "Hardware"]


@dataclass(frozen=True, kw_only=True)
class Hardware:
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
class Filling:
    """The fixed size of the micro-batches of a compiled network; see `PackedTokens.filled`.

    Attributes:
        capacity: tokens.
        sequences: those of the filler included.
        longest: tokens of the longest sequence that may come.
    """

    capacity: int
    sequences: int
    longest: int

    @classmethod
    def of(cls, *, micro_batch_tokens: int, maximum_tokens: int) -> "Filling":
        """Return the size that holds every micro-batch of `micro_batch_tokens`, about.

        The number of sequences is rounded up to a multiple of one per 512 tokens. Flash attention
        starts thread blocks for empty sequences too, so a bound that suits every corpus would cost
        more time than the two or three compilations that the multiples of one corpus need.
        """
        capacity = -(-micro_batch_capacity(micro_batch_tokens, maximum_tokens) // 128) * 128
        return cls(capacity=capacity, sequences=max(16, capacity // 512), longest=maximum_tokens)
