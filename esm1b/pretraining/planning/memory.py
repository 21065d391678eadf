"""Memory of a GPU in training, and of checkpoints on disk, from the shape of the network.

N processes, P parameters; b bytes of a number in the precision of the multiplications.
"""

from dataclasses import dataclass
from typing import Final, Literal

from esm1b.batches.packing import micro_batch_capacity
from esm1b.config import TrainingPrecision
from esm1b.errors import UserError
from esm1b.model.shape import EncoderShape

ZeroStage = Literal[0, 1, 2, 3]

MEMORY_MARGIN: Final = 0.10
"""Share of the memory that stays free: CUDA's context, communication, gaps between blocks."""

CPU_MICRO_BATCH_TOKENS: Final = 4096
"""Micro-batch on CPU, where memory sets no limit and the matrices of larger ones are no faster."""

LIVE_PARAMETERS: Final = 1_000_000_000
"""Weights that stage 3 keeps gathered from the forward to the backward pass: DeepSpeed's default
(deepspeed/runtime/zero/config.py)."""

# DeepSpeed's default too: numbers in the buffer that gradients are reduced in.
_REDUCE_BUCKET: Final = 500_000_000

# Chosen for prediction: the last layer norm and the head keep their values there only.
_MASKED_SHARE: Final = 0.15


@dataclass(frozen=True, kw_only=True)
class StateBytes:
    """Bytes in a GPU that do not depend on the micro-batch."""

    weights: int
    gradients: int
    master_weights: int
    moments: int
    buffers: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(vars(self).values())


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Memory that training takes on one GPU.

    Attributes:
        processes: number of processes that share an update, one GPU each.
        activation_checkpointing: True for layers that the backward pass computes again.
    """

    shape: EncoderShape
    precision: TrainingPrecision
    processes: int
    activation_checkpointing: bool = False

    @property
    def number_bytes(self) -> int:
        """Bytes of a number in the precision of the multiplications."""
        return 4 if self.precision == "fp32" else 2

    @property
    def zero_stages(self) -> tuple[ZeroStage, ...]:
        """ZeRO stages that can train in this precision; stage 0 has no float32 weights."""
        return (0, 1, 2, 3) if self.precision == "fp32" else (1, 2, 3)

    def state(self, stage: ZeroStage) -> StateBytes:
        """Return what weights, gradients and optimiser take under DeepSpeed 0.19.

        Adam's two moments and, from stage 1 on, a float32 copy of the weights are divided by N.
        Stages 0 and 1 keep the whole gradient in float32, and in bf16 and fp16 also the one that
        the backward pass fills; stages 2 and 3 keep 1/N of it. During the backward pass all but
        stage 0, and stage 1 in bf16, hold a buffer of fixed size to reduce gradients in; stages 2
        and 3 copy what is in it to float32. Stage 3 divides the weights too, but keeps up to 1 G
        gathered ones: the whole of a network like ESM-1b. What is held only after the backward
        pass, when the activations are gone, is left out.
        """
        parameters, number = self.shape.parameters(), self.number_bytes
        share = -(-parameters // self.processes)
        weights = number * parameters
        if stage == 3:
            weights = number * (share + min(parameters, LIVE_PARAMETERS))
        is_low = self.precision != "fp32"
        buffers = 0
        if stage < 2:
            gradients = 4 * parameters + (number * parameters if is_low else 0)
            if stage == 1 and self.precision != "bf16":
                buffers = 4 * _REDUCE_BUCKET
        else:
            gradients = 4 * share
            copied = 4 * min(parameters, _REDUCE_BUCKET) if is_low else 0
            buffers = number * _REDUCE_BUCKET + copied
        return StateBytes(
            weights=weights,
            gradients=gradients,
            master_weights=0 if stage == 0 else 4 * share,
            moments=8 * (parameters if stage == 0 else share),
            buffers=buffers,
        )

    def activation_bytes_per_token(self) -> int:
        """Return what a token keeps for the backward pass, and what that pass holds besides.

        Of width W and feed-forward width F, with varlen attention (bf16, fp16), a layer keeps
        8 W + 2 F numbers: input and output of both layer norms (4 W), queries, keys, values and
        contexts (4 W), and the feed-forward values before and after GELU (2 F); besides, in
        float32, mean and deviation of both norms and a logarithm for each head. In float32
        attention runs over padded copies and keeps 10 W. A layer norm before the layers keeps W,
        rotary positions the cosines and sines of one head, the head 5 W at masked positions. The
        backward pass holds gradients of 2 F + 2 W numbers.

        esm1b_t33_650M_UR50S in bf16: 33 x (2 x (8 x 1280 + 2 x 5120) + 96) = 1,354,848; with
        embedding, head and gradients 1,384,936, about 1.4 MB. With activation checkpointing every
        layer keeps its input, and one of them is computed again at a time.
        """
        number, width, hidden = self.number_bytes, self.shape.width, self.shape.feed_forward
        attention = 6 if self.precision == "fp32" else 4
        layer = number * ((4 + attention) * width + 2 * hidden) + 4 * (4 + self.shape.heads)
        first = number * width + 8 if self.shape.layer_norm_before else 0
        turns = 4 * self.shape.head_width if self.shape.is_rotary else 0
        ends = first + turns + round(_MASKED_SHARE * 5 * number * width)
        gradients = number * (2 * hidden + 2 * width)
        if self.activation_checkpointing:
            return self.shape.layers * number * width + layer + ends + gradients
        return self.shape.layers * layer + ends + gradients

    def needed_bytes(self, stage: ZeroStage, micro_batch_tokens: int) -> int:
        """Return what training takes with the largest micro-batch of this size."""
        capacity = micro_batch_capacity(micro_batch_tokens, self.shape.maximum_tokens)
        return self.state(stage).total + self.activation_bytes_per_token() * capacity

    def automatic_micro_batch(
        self, stage: ZeroStage, *, tokens_per_update: int, free_bytes: int | None
    ) -> int:
        """Return `micro_batch_tokens` for an update in as few rounds as memory allows.

        All rounds are equally large: the process's share of the update, divided by the smallest
        number of rounds whose largest micro-batch fits. `free_bytes` is what the GPU has before
        anything is on it, the minimum over all processes, so that all get the same answer; None on
        CPU.

        Raises:
            UserError: not even a micro-batch for the longest sequence fits.
        """
        share = -(-tokens_per_update // self.processes)
        if free_bytes is None:
            return min(CPU_MICRO_BATCH_TOKENS, share)
        smallest = min(self.shape.maximum_tokens, share)
        for rounds in range(1, -(-share // smallest) + 1):
            tokens = -(-share // rounds)
            if fits(needed := self.needed_bytes(stage, tokens), free_bytes):
                return tokens
        raise UserError(
            f"--micro-batch-tokens auto: {needed / 2**30:.1f} GiB are needed for micro-batches of "
            f"{tokens} tokens and {free_bytes / 2**30:.1f} GiB are free, of which "
            f"{100 * MEMORY_MARGIN:g} % are to stay so; expected --activation-checkpointing, a "
            "higher --zero-stage, more processes or a larger GPU"
        )


def fits(needed_bytes: int, memory_bytes: int) -> bool:
    """Return whether what is needed leaves the margin of a GPU's memory free."""
    return needed_bytes <= (1 - MEMORY_MARGIN) * memory_bytes


def checkpoint_bytes(shape: EncoderShape) -> int:
    """Return the size of a checkpoint: weights and two moments in float32."""
    return 3 * 4 * shape.parameters()
