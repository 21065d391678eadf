"""Where each ZeRO stage of DeepSpeed keeps float32 weights, Adam's moments and gradients.

DeepSpeed 0.19.8 has an optimiser class of its own for each: none for stage 0, `BF16_Optimizer` for
stage 1 in bf16, `DeepSpeedZeroOptimizer` for stages 1 and 2 otherwise, and
`DeepSpeedZeroOptimizer_Stage3`. What differs between them is behind one interface here.
"""

from collections.abc import Mapping
from types import MethodType
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW

Kind = Literal["weight", "exp_avg", "exp_avg_sq"]


class Sharding(Protocol):
    """The state of an optimiser under one ZeRO stage, as this process sees it."""

    def masters(self) -> list[Tensor]:
        """Return the float32 tensors that Adam updates in this process."""

    def gradients(self) -> list[Tensor]:
        """Return the pieces of the update's gradient, after the last backward pass.

        Together the pieces of all processes are the gradient, each element `copies` times.
        """

    @property
    def copies(self) -> int:
        """How often an element of the gradient is there over all processes."""

    def link(self) -> None:
        """Tell DeepSpeed of the Adam state that the masters have by now."""

    def decide_alone(self) -> None:
        """Keep DeepSpeed from asking on the host whether a gradient is finite."""

    def read(self, parameter: nn.Parameter, kind: Kind) -> Tensor:
        """Return a whole float32 tensor; collective."""

    def holds(self, parameter: nn.Parameter) -> bool:
        """Tell whether any of the state of `parameter` is in this process."""

    def write(self, parameter: nn.Parameter, kind: Kind, value: Tensor) -> None:
        """Keep this process's share of a whole float32 tensor, on any device."""

    def publish(self) -> None:
        """Make the forward pass use the float32 weights that were written; collective."""


def sharding_of(optimizer: Any, adam: AdamW) -> Sharding:
    """Return how `optimizer`, which DeepSpeed made of `adam`, keeps its state."""
    if optimizer is adam:
        return _Whole(adam)
    from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    if isinstance(optimizer, BF16_Optimizer):
        return _FlatBfloat16(optimizer, adam)
    if isinstance(optimizer, DeepSpeedZeroOptimizer):
        return _Flat(optimizer, adam)
    if isinstance(optimizer, DeepSpeedZeroOptimizer_Stage3):
        return _Partitioned(optimizer, adam)
    raise TypeError(f"DeepSpeed made a {type(optimizer).__name__} of the optimiser")


class _Whole:
    """Stage 0: every process has everything, and the weights are the masters."""

    def __init__(self, adam: AdamW) -> None:
        self._adam = adam
        self.copies = torch.distributed.get_world_size()

    def masters(self) -> list[Tensor]:
        return [p for group in self._adam.param_groups for p in group["params"]]

    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self.masters() if p.grad is not None]

    def link(self) -> None:
        pass

    def decide_alone(self) -> None:
        pass

    def read(self, parameter: nn.Parameter, kind: Kind) -> Tensor:
        return self._tensor(parameter, kind)

    def holds(self, parameter: nn.Parameter) -> bool:
        return True

    def write(self, parameter: nn.Parameter, kind: Kind, value: Tensor) -> None:
        self._tensor(parameter, kind).copy_(value)

    def publish(self) -> None:
        pass

    def _tensor(self, parameter: nn.Parameter, kind: Kind) -> Tensor:
        state: Mapping[str, Tensor] = self._adam.state[parameter]
        return parameter.detach() if kind == "weight" else state[kind]


class _Flat:
    """Stages 1 and 2: the parameters of a group end to end, one piece for each process."""

    copies = 1

    def __init__(self, optimizer: Any, adam: AdamW) -> None:
        self._optimizer = optimizer
        self._adam = adam

    def masters(self) -> list[Tensor]:
        return [p for group in self._adam.param_groups for p in group["params"]]

    def gradients(self) -> list[Tensor]:
        return [piece for group in self._optimizer.averaged_gradients.values() for piece in group]

    def link(self) -> None:
        self._optimizer._lazy_init_hp_params_optimizer_state()

    def decide_alone(self) -> None:
        self._optimizer.scaled_global_norm = lambda norm_type=2: 0.0

    def read(self, parameter: nn.Parameter, kind: Kind) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        tensor: Tensor = (
            safe_get_full_fp32_param(parameter)
            if kind == "weight"
            else safe_get_full_optimizer_state(parameter, kind)
        )
        return tensor

    def holds(self, parameter: nn.Parameter) -> bool:
        mapping: Any = parameter._hp_mapping  # type: ignore[attr-defined]  # DeepSpeed's
        return mapping is not None

    def write(self, parameter: nn.Parameter, kind: Kind, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if kind == "weight":
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, kind)

    def publish(self) -> None:
        self._optimizer.update_lp_params()


class _FlatBfloat16(_Flat):
    """Stage 1 in bf16: as the others of its stage, with a whole float32 gradient on the side."""

    def gradients(self) -> list[Tensor]:
        pieces: list[Tensor] = self._optimizer.fp32_groups_gradient_flat_partition
        return pieces

    def decide_alone(self) -> None:
        # DeepSpeed's own step takes the norm and asks the host in one breath, so it is said anew
        # without them (`BF16_Optimizer.step`).
        @torch.no_grad()
        def step(optimizer: Any) -> None:
            for master, gradient in zip(self.masters(), self.gradients(), strict=True):
                master.grad = gradient
            optimizer.optimizer.step()
            optimizer.update_lp_params()
            optimizer.clear_hp_grads()

        self._optimizer.step = MethodType(step, self._optimizer)


class _Partitioned:
    """Stage 3: each parameter in as many equal pieces as there are processes."""

    copies = 1

    def __init__(self, optimizer: Any, adam: AdamW) -> None:
        self._optimizer = optimizer
        self._adam = adam
        self._rank = torch.distributed.get_rank()
        self._processes = torch.distributed.get_world_size()

    def masters(self) -> list[Tensor]:
        masters: list[Tensor] = self._optimizer.fp32_partitioned_groups_flat
        return masters

    def gradients(self) -> list[Tensor]:
        return [piece for group in self._optimizer.averaged_gradients.values() for piece in group]

    def link(self) -> None:
        pass

    def decide_alone(self) -> None:
        self._optimizer._get_norm_groups = lambda: [0.0]

    def read(self, parameter: nn.Parameter, kind: Kind) -> Tensor:
        tensor: Tensor = self._optimizer.get_full_hp_param(
            parameter, None if kind == "weight" else kind
        )
        return tensor

    def holds(self, parameter: nn.Parameter) -> bool:
        size: int = parameter.ds_tensor.numel()  # type: ignore[attr-defined]  # DeepSpeed's
        whole: int = parameter.ds_numel  # type: ignore[attr-defined]  # DeepSpeed's
        return self._rank * size < whole

    def write(self, parameter: nn.Parameter, kind: Kind, value: Tensor) -> None:
        size: int = parameter.ds_tensor.numel()  # type: ignore[attr-defined]  # DeepSpeed's
        first = self._rank * size
        piece = value.flatten()[first : first + size]
        # the pieces are equally large, so the last one may reach beyond the end
        piece = functional.pad(piece, (0, size - len(piece)))
        self._optimizer.set_local_hp_param(piece, parameter, None if kind == "weight" else kind)

    def publish(self) -> None:
        # Small parameters stay gathered; they are let go first, or nothing would be gathered anew.
        self._optimizer._partition_all_parameters()
        for number in range(len(self._optimizer.fp16_groups)):
            self._optimizer._reassign_or_swap_out_partitioned_parameters(number)
        small = self._optimizer.persistent_parameters
        if small:
            small[0].all_gather(small)
