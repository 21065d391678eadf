from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from esm1b.config import TrainingPrecision
from esm1b.errors import UserError
from esm1b.model.encoder import Encoder, initialise
from esm1b.model.packed import PackedTokens
from esm1b.model.shape import EncoderShape, Positions
from esm1b.pretraining.planning.gpus import find_gpu
from esm1b.pretraining.planning.memory import (
    StateBytes,
    TrainingMemory,
    ZeroStage,
    checkpoint_bytes,
    fits,
)

ESM1B = EncoderShape()
P = 652_358_433  # parameters


def memory(precision: TrainingPrecision, processes: int = 1, **changed: Any) -> TrainingMemory:
    options = {"shape": ESM1B, "precision": precision, "processes": processes}
    return TrainingMemory(**(options | changed))


def state(precision: TrainingPrecision, zero_stage: ZeroStage, processes: int) -> StateBytes:
    return memory(precision, processes).state(zero_stage)


def test_state_on_one_gpu() -> None:
    # bf16: weights 2, gradients 2 + 4, float32 weights 4, moments 8: 20 bytes a parameter
    assert state("bf16", 1, 1) == StateBytes(
        weights=2 * P, gradients=6 * P, master_weights=4 * P, moments=8 * P, buffers=0
    )
    assert state("bf16", 1, 1).total == 13_047_168_660
    # float32 without ZeRO: weights 4, gradients 4, moments 8
    assert state("fp32", 0, 4).total == 16 * P


def test_zero_divides_the_state() -> None:
    share = 81_544_805  # an eighth of the parameters, rounded up
    assert state("bf16", 1, 8) == StateBytes(
        weights=2 * P, gradients=6 * P, master_weights=4 * share, moments=8 * share, buffers=0
    )
    # a buffer of 500 M numbers, and as many of them in float32
    assert state("bf16", 2, 8) == StateBytes(
        weights=2 * P,
        gradients=4 * share,
        master_weights=4 * share,
        moments=8 * share,
        buffers=1_000_000_000 + 2_000_000_000,
    )
    assert state("fp16", 3, 8).weights == 2 * share + 2 * P  # divided, and gathered
    assert state("fp32", 1, 8).buffers == 2_000_000_000
    large = EncoderShape(layers=60, width=2560, heads=40, feed_forward=10240)
    weights = memory("bf16", 8, shape=large).state(3).weights
    assert weights == 2 * -(-large.parameters() // 8) + 2 * 1_000_000_000


def test_stages_of_a_precision() -> None:
    assert memory("fp32").zero_stages == (0, 1, 2, 3)
    assert memory("bf16").zero_stages == memory("fp16").zero_stages == (1, 2, 3)


def test_activations_of_a_token() -> None:
    # 33 x (2 x (8 x 1280 + 2 x 5120) + 96) = 1,354,848; embedding 2 x 1280 + 8, head
    # 0.15 x 5 x 2 x 1280 = 1,920; gradients 2 x (2 x 5120 + 2 x 1280) = 25,600
    assert memory("bf16").activation_bytes_per_token() == 1_384_936
    # 33 inputs of 2 x 1280 and one layer of 41,056
    assert (
        memory("fp16", activation_checkpointing=True).activation_bytes_per_token()
        == 33 * 2560 + 41_056 + 2568 + 1920 + 25_600
    )


class FlashAttention(torch.autograd.Function):
    """Keeps what flash attention keeps; what it returns is nobody's attention."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query + key + value
        ctx.save_for_backward(query, key, value, output, output.new_zeros(output.shape[:2]).float())
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, gradient, gradient


class FlashPlan:
    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output: Tensor = FlashAttention.apply(query, key, value)  # type: ignore[no-untyped-call]
        return output

    def at(self, positions: Tensor) -> None:
        return None


def kept_bytes(encoder: nn.Module, packed: PackedTokens, masked: Tensor) -> int:
    """Return the bytes that autograd keeps for the backward pass, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = encoder(packed, masked).float()
        functional.cross_entropy(logits, torch.zeros(len(masked), dtype=torch.int64))
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_a_layer_keeps_what_the_formula_says(
    precision: TrainingPrecision,
    checkpointing: bool,
    positions: Positions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths = [40] * 5
    tokens = torch.randint(4, 24, (200,), generator=torch.Generator().manual_seed(1))
    packed = PackedTokens.from_tokens(tokens, lengths)
    masked = torch.arange(0, 200, 7)
    if precision == "bf16":
        plan: Callable[..., FlashPlan] = lambda packed, path: FlashPlan()  # noqa: E731
        monkeypatch.setattr("esm1b.model.encoder.plan_attention", plan)
    measured, expected = [], []
    for layers in (3, 4):
        shape = EncoderShape(
            layers=layers,
            width=64,
            heads=4,
            feed_forward=256,
            maximum_tokens=64,
            positions=positions,
            layer_norm_before=positions == "learned",
        )
        encoder = Encoder(shape, activation_checkpointing=checkpointing)
        initialise(encoder, seed=1)
        if precision == "bf16":
            encoder = encoder.to(torch.bfloat16)
        measured.append(kept_bytes(encoder, packed, masked) / len(tokens))
        formula = memory(precision, shape=shape, activation_checkpointing=checkpointing)
        expected.append(formula.activation_bytes_per_token())
    layer = measured[1] - measured[0]
    if precision == "fp32" and not checkpointing:
        # Sequences of one length need no padding: 9 W, where the formula has 10 W.
        layer += 4 * 64
    # CPU keeps mean and deviation of the layer norms in bf16, CUDA in float32: 8 bytes.
    assert layer == pytest.approx(expected[1] - expected[0], abs=8)
    assert measured[0] <= expected[0]


def automatic(
    gpu: str,
    processes: int,
    *,
    tokens_per_update: int = 131_072,
    free_bytes: int | None = -1,
    **changed: Any,
) -> int:
    """Return the choice for a GPU, or for other `free_bytes` than its memory."""
    return memory("bf16", processes, **changed).automatic_micro_batch(
        1,
        tokens_per_update=tokens_per_update,
        free_bytes=find_gpu(gpu).memory_bytes if free_bytes == -1 else free_bytes,
    )


@pytest.mark.parametrize(
    ("gpu", "processes", "tokens"),
    [
        # 0.9 x 139.8 GiB = 135.1 GB, less 13.0 GB: 88,100 tokens of 1.385 MB, in two rounds
        ("H200", 1, 65_536),
        ("H200", 2, 65_536),
        ("H200", 8, 16_384),
        # 76.4 GB less 13.0 GB: 45,700 tokens, so three rounds of 43,691 and a sequence
        ("A100", 1, 43_691),
        ("A100", 4, 32_768),
    ],
)
def test_few_rounds_that_fit(gpu: str, processes: int, tokens: int) -> None:
    assert automatic(gpu, processes) == tokens


def test_the_choice_fits_and_one_round_less_would_not() -> None:
    gpu = find_gpu("RTX4090")
    shape = replace(ESM1B, layers=12)
    tokens = automatic("RTX4090", 1, shape=shape)
    rounds = -(-131_072 // tokens)
    needed = memory("bf16", shape=shape)
    per_token = needed.activation_bytes_per_token()
    held = needed.state(1).total
    assert fits(held + per_token * (tokens + 1024), gpu.memory_bytes)
    larger = -(-131_072 // (rounds - 1))
    assert not fits(held + per_token * (larger + 1024), gpu.memory_bytes)


def test_on_cpu_it_is_a_constant() -> None:
    assert automatic("H200", 1, free_bytes=None) == 4096
    assert automatic("H200", 4, free_bytes=None, tokens_per_update=4096) == 1024


def test_what_cannot_fit_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^--micro-batch-tokens auto: 14\.\d GiB are needed .* 12\.0 GiB are free"
    ):
        automatic("H200", 1, free_bytes=12 * 2**30)
    # With one layer at a time in memory more tokens fit beside 13.0 GB of state.
    short = 20 * 2**30
    assert automatic("H200", 1, free_bytes=short) < automatic(
        "H200", 1, free_bytes=short, activation_checkpointing=True
    )


def test_a_checkpoint_is_three_numbers_a_parameter() -> None:
    assert checkpoint_bytes(ESM1B) == 7_828_301_196


def test_margin() -> None:
    assert [fits(90, 100), fits(91, 100)] == [True, False]
