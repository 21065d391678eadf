import json
from pathlib import Path
from typing import Any

import pytest

from esm1b.batches.packing import Filling
from esm1b.config import PretrainingConfig
from esm1b.errors import UserError
from esm1b.model.attention_plan import AttentionPath
from esm1b.model.shape import EncoderShape
from esm1b.pretraining.engine.deepspeed_settings import (
    check_compiled,
    check_layout,
    deepspeed_settings,
)
from esm1b.pretraining.options import Layout


def settings_file(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "deepspeed.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("precision", "stages"), [("fp32", [0, 1, 2, 3]), ("bf16", [1, 2, 3]), ("fp16", [1, 2, 3])]
)
def test_stages_that_train(precision: str, stages: list[Any]) -> None:
    for stage in stages:
        check_layout(precision, Layout(zero_stage=stage))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_needs_master_weights(precision: str) -> None:
    with pytest.raises(UserError) as caught:
        check_layout(precision, Layout(zero_stage=0))
    assert str(caught.value) == (
        f"--zero-stage 0: with pretraining.precision {precision}; expected 1, 2 or 3, which keep "
        "float32 master weights"
    )


def test_divided_weights_are_not_compiled() -> None:
    with pytest.raises(UserError) as caught:
        check_layout("bf16", Layout(zero_stage=3, compile=True))
    assert str(caught.value) == (
        "--compile: with --zero-stage 3, which gathers the weights within a layer; "
        "expected 0, 1 or 2"
    )


def test_settings_of_a_recipe() -> None:
    recipe = PretrainingConfig(precision="bf16", gradient_clipping=1.0)
    assert deepspeed_settings(recipe, Layout(zero_stage=2)) == {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_optimization": {"stage": 2, "contiguous_gradients": True},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": True, "check_grad_overflow": False},
        "fp16": {
            "enabled": False,
            "loss_scale": 0,
            "initial_scale_power": 16,
            "loss_scale_window": 1000,
            "hysteresis": 1,
            "min_loss_scale": 1,
        },
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 2**62,
        "timers": {"throughput": {"enabled": False, "synchronized": False}},
    }


def test_a_users_file_wins_key_by_key(tmp_path: Path) -> None:
    theirs = {
        "zero_optimization": {"reduce_bucket_size": 1000, "contiguous_gradients": False},
        "timers": {"throughput": {"enabled": True}},
        "wall_clock_breakdown": True,
    }
    layout = Layout(zero_stage=3, deepspeed_file=settings_file(tmp_path, theirs))
    check_layout("fp32", layout)
    ours = deepspeed_settings(PretrainingConfig(), Layout(zero_stage=3))
    assert deepspeed_settings(PretrainingConfig(), layout) == {
        **ours,
        "zero_optimization": {
            "stage": 3,
            "contiguous_gradients": False,
            "reduce_bucket_size": 1000,
        },
        "timers": {"throughput": {"enabled": True, "synchronized": False}},
        "wall_clock_breakdown": True,
    }


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"optimizer": {"type": "Lion"}}, "optimizer"),
        ({"gradient_clipping": 1.0}, "gradient_clipping"),
        ({"train_batch_size": 32}, "train_batch_size"),
        ({"train_micro_batch_size_per_gpu": 2}, "train_micro_batch_size_per_gpu"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps"),
        ({"bf16": {"enabled": True}}, "bf16"),
        ({"communication_data_type": "bf16"}, "communication_data_type"),
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage"),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            "zero_optimization.offload_optimizer",
        ),
        ({"zero_optimization": True}, "zero_optimization"),
    ],
)
def test_keys_that_decide_the_arithmetic_are_refused(
    tmp_path: Path, content: object, key: str
) -> None:
    path = settings_file(tmp_path, content)
    with pytest.raises(UserError) as caught:
        check_layout("fp32", Layout(deepspeed_file=path))
    assert str(caught.value).startswith(
        f"{path}: {key}: decides what an update computes or where its state is, which belongs to "
        "the recipe and the options of pretrain; expected only zero_optimization (allgather_bucket"
    )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"steps_per_print": 0}, "steps_per_print: 0; expected a number, 1 or more"),
        ({"steps_per_print": True}, "steps_per_print: True; expected a number, 1 or more"),
        ({"steps_per_print": "10"}, "steps_per_print: '10'; expected a number, 1 or more"),
        ({"comms_logger": 3}, "comms_logger: 3; expected an object"),
        ({"wall_clock_breakdown": 1}, "wall_clock_breakdown: 1; expected true or false"),
    ],
)
def test_values_of_another_kind_are_refused(tmp_path: Path, content: object, problem: str) -> None:
    path = settings_file(tmp_path, content)
    with pytest.raises(UserError) as caught:
        check_layout("fp32", Layout(deepspeed_file=path))
    assert str(caught.value) == f"{path}: {problem}"


def test_compiled_layers_attend_by_varlen() -> None:
    shape = EncoderShape(layers=1, width=64, heads=4)
    fitting: list[tuple[AttentionPath, str]] = [
        *(("auto", "bf16"), ("varlen", "bf16"), ("auto", "fp16")),
    ]
    for attention, precision in fitting:
        check_compiled(shape, attention, "cuda", precision)
    others: list[tuple[AttentionPath, str, str, int]] = [
        ("sdpa", "cuda", "bf16", 4),
        ("explicit", "cuda", "bf16", 4),
        ("auto", "cuda", "fp32", 4),
        ("varlen", "cpu", "bf16", 4),
        ("auto", "cuda", "bf16", 16),  # heads 4 wide
    ]
    for attention, device, precision, heads in others:
        narrow = EncoderShape(layers=1, width=64, heads=heads)
        with pytest.raises(UserError, match=f"--compile: on {device} in {precision}, with heads"):
            check_compiled(narrow, attention, device, precision)


def test_a_file_that_is_no_settings(tmp_path: Path) -> None:
    path = settings_file(tmp_path, [1])
    with pytest.raises(UserError, match=f"{path}: list; expected an object of settings"):
        check_layout("fp32", Layout(deepspeed_file=path))
    with pytest.raises(UserError, match="No such file or directory"):
        check_layout("fp32", Layout(deepspeed_file=tmp_path / "none.json"))


def test_a_filling_holds_every_micro_batch() -> None:
    filling = Filling.of(micro_batch_tokens=32768, maximum_tokens=1024)
    assert filling.capacity % 128 == 0
    assert filling.capacity >= 32768
    assert (filling.sequences, filling.longest) == (filling.capacity // 512, 1024)
