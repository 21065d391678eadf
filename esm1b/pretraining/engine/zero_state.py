"""Where each ZeRO stage of DeepSpeed keeps float32 weights, Adam's moments and gradients.

DeepSpeed 0.19.8 has an optimiser class of its own for each: none for stage 0, `BF16_Optimizer` for
stage 1 in bf16, `DeepSpeedZeroOptimizer` for stages 1 and 2 otherwise, and
`DeepSpeedZeroOptimizer_Stage3`. Their differences are behind one interface here.
"""

from collections.abc import Mapping
from types import MethodType
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW

PARTS: Final[dict[str, str | None]] = {
    "weights": None,
    "first_moments": "exp_avg",
    "second_moments": "exp_avg_sq",
}
"""The parts of the state, by their names in a checkpoint, with the keys of Adam's state."""


class Sharding:
    """The state of an optimiser as this process sees it, under ZeRO stages 1 and 2.

    The parameters of a group lie end to end, in one piece for each process. Subclasses are for the
    other stages. Parameters are `Any`: they have attributes that DeepSpeed adds.

    Attributes:
        is_live: True if `read` returns the state itself, which updates change, and no copy of it.
    """

    def __init__(self, optimizer: Any, adam: AdamW) -> None:
        self.is_live = torch.distributed.get_world_size() == 1
        self._optimizer = optimizer
        self._adam = adam
        self._create_adam_state()

    def _create_adam_state(self) -> None:
        """Give Adam the state that it would make at its first step.

        In stages 1 and 2 DeepSpeed links parameters to that state after the first step of the first
        parameter group, before the second group has any. With the state created here all links are
        complete, and a checkpoint can be loaded before the first step.
        """
        for master in self._masters():
            self._adam.state[master] = {
                "step": torch.zeros((), device=master.device),
                "exp_avg": torch.zeros_like(master),
                "exp_avg_sq": torch.zeros_like(master),
            }
        if hasattr(self._optimizer, "_lazy_init_hp_params_optimizer_state"):
            self._optimizer._lazy_init_hp_params_optimizer_state()

    def decide_alone(self) -> None:
        """Keep DeepSpeed from asking on the host whether a gradient is finite."""
        self._optimizer.scaled_global_norm = lambda norm_type=2: 0.0

    def gradients(self) -> list[Tensor]:
        """Return the pieces of the update's gradient, after the last backward pass.

        Together the pieces of all processes are the gradient; at stage 0 each process has it whole.
        """
        return [piece for group in self._optimizer.averaged_gradients.values() for piece in group]

    def read(self, parameter: Any, key: str | None) -> Tensor:
        """Return a whole float32 tensor, the weight or Adam's state `key` of it; collective."""
        tensor: Tensor
        if self.is_live:
            tensor = parameter._hp_mapping.get_hp_fragment(key).view_as(parameter)
        else:
            tensor = parameter.get_full_hp_param(key)
        return tensor

    def holds(self, parameter: Any) -> bool:
        """Return whether any of the state of `parameter` is in this process."""
        return parameter._hp_mapping is not None

    def write(self, parameter: Any, key: str | None, value: Tensor) -> None:
        """Keep this process's share of a whole float32 tensor, see `read`."""
        parameter.set_full_hp_param(value, key)

    def publish(self) -> None:
        """Make the forward pass use the float32 weights that were written; collective."""
        self._optimizer.update_lp_params()

    def _masters(self) -> list[Tensor]:
        """Return the float32 tensors that Adam updates in this process."""
        return [p for group in self._adam.param_groups for p in group["params"]]


def sharding_of(optimizer: Any, adam: AdamW) -> Sharding:
    """Return how `optimizer`, which DeepSpeed made of `adam`, keeps its state."""
    from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    classes: dict[type, type[Sharding]] = {
        AdamW: _Whole,
        BF16_Optimizer: _FlatBfloat16,
        DeepSpeedZeroOptimizer: Sharding,
        DeepSpeedZeroOptimizer_Stage3: _Partitioned,
    }
    return classes[type(optimizer)](optimizer, adam)


class _Whole(Sharding):
    """Stage 0: every process has everything, and the weights are the masters."""

    def __init__(self, optimizer: Any, adam: AdamW) -> None:
        super().__init__(optimizer, adam)
        self.is_live = True

    def decide_alone(self) -> None:
        pass

    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self._masters() if p.grad is not None]

    def read(self, parameter: Any, key: str | None) -> Tensor:
        state: Mapping[str, Tensor] = self._adam.state[parameter]
        return parameter.detach() if key is None else state[key]

    def holds(self, parameter: Any) -> bool:
        return True

    def write(self, parameter: Any, key: str | None, value: Tensor) -> None:
        self.read(parameter, key).copy_(value)

    def publish(self) -> None:
        pass


class _FlatBfloat16(Sharding):
    """Stage 1 in bf16: flat as well, with a whole float32 gradient in addition."""

    def decide_alone(self) -> None:
        # DeepSpeed's own step also takes the norm and asks the host; this is the rest of it
        # (`BF16_Optimizer.step`).
        @torch.no_grad()
        def step(optimizer: Any) -> None:
            for master, gradient in zip(self._masters(), self.gradients(), strict=True):
                master.grad = gradient
            optimizer.optimizer.step()
            optimizer.update_lp_params()
            optimizer.clear_hp_grads()

        self._optimizer.step = MethodType(step, self._optimizer)

    def gradients(self) -> list[Tensor]:
        pieces: list[Tensor] = self._optimizer.fp32_groups_gradient_flat_partition
        return pieces


class _Partitioned(Sharding):
    """Stage 3: each parameter in equal pieces, one for each process."""

    def __init__(self, optimizer: Any, adam: AdamW) -> None:
        super().__init__(optimizer, adam)
        self.is_live = False

    def decide_alone(self) -> None:
        self._optimizer._get_norm_groups = lambda: [0.0]

    def read(self, parameter: Any, key: str | None) -> Tensor:
        tensor: Tensor = self._optimizer.get_full_hp_param(parameter, key)
        return tensor

    def holds(self, parameter: Any) -> bool:
        return bool(self._piece(parameter).start < parameter.ds_numel)

    def write(self, parameter: Any, key: str | None, value: Tensor) -> None:
        piece = self._piece(parameter)
        values = value.flatten()[piece]
        # the pieces are equally large, so the last one may reach beyond the end
        padded = functional.pad(values, (0, piece.stop - piece.start - len(values)))
        self._optimizer.set_local_hp_param(padded, parameter, key)

    def publish(self) -> None:
        # Small parameters stay gathered; unless they are released first, nothing is gathered again.
        self._optimizer._partition_all_parameters()
        for number in range(len(self._optimizer.fp16_groups)):
            self._optimizer._reassign_or_swap_out_partitioned_parameters(number)
        small = self._optimizer.persistent_parameters
        if small:
            small[0].all_gather(small)

    def _masters(self) -> list[Tensor]:
        masters: list[Tensor] = self._optimizer.fp32_partitioned_groups_flat
        return masters

    def _piece(self, parameter: Any) -> slice:
        """Return the elements of the flattened parameter that belong to this process."""
        size = parameter.ds_tensor.numel()
        first = torch.distributed.get_rank() * size
        return slice(first, first + size)
