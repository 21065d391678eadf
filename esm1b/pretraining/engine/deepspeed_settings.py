"""DeepSpeed's configuration, from the recipe and the layout, with a user's own on top."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from esm1b.config import PretrainingConfig
from esm1b.errors import SharedUserError, UserError
from esm1b.files import read_json
from esm1b.model.attention_plan import AttentionPath, choose_path
from esm1b.model.shape import EncoderShape
from esm1b.pretraining.options import Layout

# A user's file may set how DeepSpeed moves data and what it reports. All other keys decide the
# arithmetic of an update, which belongs to the recipe, or where its state is.
_REPORTS: Final[dict[str, type]] = {
    **dict.fromkeys(("comms_logger", "flops_profiler", "timers"), dict),
    **dict.fromkeys(("dump_state", "memory_breakdown", "wall_clock_breakdown"), bool),
    "steps_per_print": int,
}
_TYPE_NAMES: Final = {dict: "an object", bool: "true or false", int: "a number, 1 or more"}
_ZERO: Final = (
    *("allgather_bucket_size", "allgather_partitions", "contiguous_gradients"),
    *("enable_sanity_checks", "log_trace_cache_warnings", "overlap_comm", "reduce_bucket_size"),
    *("reduce_scatter", "stage3_allgather_sequential", "stage3_max_live_parameters"),
    *("stage3_max_reuse_distance", "stage3_model_persistence_threshold"),
    *("stage3_module_granularity_threshold", "stage3_param_persistence_threshold"),
    *("stage3_prefetch_bucket_size", "stage3_use_all_reduce_for_fetch_params"),
    *("sub_group_size", "use_multi_rank_bucket_allreduce"),
)


def check_layout(precision: str, layout: Layout) -> None:
    """Check a layout as far as possible before anything starts.

    Raises:
        UserError: the ZeRO stage does not train in this precision or does not compile, or the
            user's DeepSpeed file has a key or value that is not allowed.
    """
    if layout.zero_stage == 0 and precision != "fp32":
        raise UserError(
            f"--zero-stage 0: with pretraining.precision {precision}; expected 1, 2 or 3, which "
            "keep float32 master weights"
        )
    if layout.compile and layout.zero_stage == 3:
        raise UserError(
            "--compile: with --zero-stage 3, which gathers the weights within a layer; "
            "expected 0, 1 or 2"
        )
    if layout.deepspeed_file is not None:
        _users_settings(layout.deepspeed_file)


def check_compiled(
    shape: EncoderShape, attention: AttentionPath, device: str, precision: str
) -> None:
    """Check that compiled layers attend by varlen; other paths pad each batch to another shape.

    Raises:
        UserError: they would attend by another path.
    """
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    head_width = shape.head_width
    wanted: AttentionPath = "auto" if attention == "varlen" else attention
    path = choose_path(wanted, device=torch.device(device), dtype=dtype, head_width=head_width)
    if path != "varlen":
        raise SharedUserError(
            f"--compile: on {device} in {precision}, with heads {head_width} wide and --attention "
            f"{attention}, attention is not varlen; expected CUDA, bf16 or fp16, a head width that "
            "is a multiple of 8 up to 256, and --attention auto or varlen"
        )


def deepspeed_settings(config: PretrainingConfig, layout: Layout) -> dict[str, Any]:
    """Return DeepSpeed's configuration for a recipe in a layout.

    Raises:
        UserError: the user's file cannot be read, or has a key or value that is not allowed.
    """
    precision: str = config.precision
    ours = {
        # Micro-batches are counted in tokens, not samples, so DeepSpeed gets one sample, and the
        # engine decides which backward pass ends an update.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # Adam's step clips, see `Engine`: the same arithmetic at every stage, and on the device.
        "gradient_clipping": 0.0,
        "zero_optimization": {"stage": layout.zero_stage, "contiguous_gradients": True},
        "zero_allow_untested_optimizer": True,
        # Whether an update is finite is decided on the device; DeepSpeed would ask the host.
        "bf16": {"enabled": precision == "bf16", "check_grad_overflow": False},
        # The scale starts at 2^16, doubles after 1000 updates without an overflow and halves at
        # each overflow (hysteresis 1).
        "fp16": {
            "enabled": precision == "fp16",
            "loss_scale": 0,
            "initial_scale_power": 16,
            "loss_scale_window": 1000,
            "hysteresis": 1,
            "min_loss_scale": 1,
        },
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 2**62,
        # They would wait for the device at every update.
        "timers": {"throughput": {"enabled": False, "synchronized": False}},
    }
    if layout.deepspeed_file is None:
        return ours
    return _merged(ours, _users_settings(layout.deepspeed_file))


def _users_settings(path: Path) -> dict[str, Any]:
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise UserError(f"{path}: {type(settings).__name__}; expected an object of settings")
    for key, value in settings.items():
        if kind := _REPORTS.get(key):
            is_count = type(value) is int and value >= 1
            if not (is_count if kind is int else isinstance(value, kind)):
                raise UserError(f"{path}: {key}: {value!r}; expected {_TYPE_NAMES[kind]}")
            continue
        unknown = [key]
        if key == "zero_optimization" and isinstance(value, dict):
            unknown = [f"{key}.{inner}" for inner in value if inner not in _ZERO]
        if unknown:
            raise UserError(
                f"{path}: {unknown[0]}: decides what an update computes or where its state is, "
                "which belongs to the recipe and the options of pretrain; expected only "
                f"zero_optimization ({', '.join(_ZERO)}), {', '.join(sorted(_REPORTS))}"
            )
    return settings


def _merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of both, section by section; theirs win."""
    merged = dict(ours)
    for key, value in theirs.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
