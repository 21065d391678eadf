"""The dynamic loss scale of fp16, to and from a checkpoint."""

from collections.abc import Mapping
from typing import Any, Final

# by name, the attributes of DeepSpeed's DynamicLossScaler that change
_ATTRIBUTES: Final = {
    "scale": "cur_scale",
    "updates": "cur_iter",
    "last_overflow": "last_overflow_iter",
    "hysteresis": "cur_hysteresis",
}


def read_loss_scale(optimizer: Any) -> dict[str, float]:
    """Return the loss scale of DeepSpeed's fp16 `optimizer` and what it counts."""
    scaler = optimizer.loss_scaler
    return {name: getattr(scaler, attribute) for name, attribute in _ATTRIBUTES.items()}


def write_loss_scale(optimizer: Any, state: Mapping[str, float]) -> None:
    """Go on with the loss scale that `read_loss_scale` returned."""
    for name, attribute in _ATTRIBUTES.items():
        before = getattr(optimizer.loss_scaler, attribute)
        setattr(optimizer.loss_scaler, attribute, type(before)(state[name]))


def stay_at_least_scale(optimizer: Any) -> None:
    """Skip an update that overflows at the least scale like any other, instead of raising."""
    optimizer.loss_scaler.raise_error_at_min_scale = False
