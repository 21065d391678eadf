"""DeepSpeed around the encoder: an update is a sum of losses over all processes, divided once."""

import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional

from esm1b.batches.stream import MicroBatch
from esm1b.config import PretrainingConfig
from esm1b.errors import UserError
from esm1b.model.attention_plan import AttentionPath
from esm1b.model.encoder import Encoder
from esm1b.model.packed import PackedTokens
from esm1b.pretraining.launch import Place

__all__ = [
    "Engine",
    "Filling",
    "Hardware",
    "MaskedLosses",
    "deepspeed_settings",
    "masked_losses",
    "start_processes",
]


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What the machine decides; it changes the speed of a run, not its batches.

    Attributes:
        micro_batch_tokens: tokens that a process takes at once, about.
        zero_stage: what DeepSpeed divides among processes: optimiser state (1), gradients too (2).
        threads: CPU threads of each process.
        device: "auto" is CUDA where there is any, one GPU for each process.
        attention: how tokens attend; "auto" is varlen on CUDA in bf16, sdpa elsewhere.
        activation_checkpointing: keep less for the backward pass and compute it again.
        compile: compile the layers; every micro-batch is then filled up to a fixed size.
    """

    micro_batch_tokens: int = 4096
    zero_stage: Literal[1, 2] = 1
    threads: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    attention: AttentionPath = "auto"
    activation_checkpointing: bool = False
    compile: bool = False


@dataclass(frozen=True, kw_only=True)
class MaskedLosses:
    """Sums over the masked positions of a batch, as tensors on the device.

    Attributes:
        loss: float32, cross-entropy in nats over the 33 tokens.
        correct: int64, positions whose likeliest token is the true one.
    """

    loss: Tensor
    correct: Tensor


@dataclass(frozen=True, kw_only=True)
class Filling:
    """The fixed size of the micro-batches of a compiled network; see `PackedTokens.filled`."""

    capacity: int
    sequences: int
    longest: int

    @classmethod
    def of(cls, *, micro_batch_tokens: int, maximum_tokens: int) -> "Filling":
        """Return a size that holds micro-batches of `micro_batch_tokens`, about.

        Sequences are shared out whole, so a micro-batch may exceed its share by one of them. Few
        corpora have sequences of less than 32 tokens on average; a batch that has more, or is
        larger, takes the next multiple, at the price of another compilation.
        """
        capacity = -(-(micro_batch_tokens + maximum_tokens) // 128) * 128
        return cls(capacity=capacity, sequences=capacity // 32, longest=maximum_tokens)


def start_processes(place: Place, hardware: Hardware) -> torch.device:
    """Join the other processes and return this process's device.

    gloo on CPU, nccl on CUDA. The environment gets torch's five variables.

    Raises:
        UserError: this process has no GPU of its own, though the run is to use GPUs.
    """
    has_cuda = hardware.device == "cuda" or (
        hardware.device == "auto" and torch.cuda.is_available()
    )
    if has_cuda and place.local_rank >= torch.cuda.device_count():
        raise UserError(
            f"--device {hardware.device}: process {place.local_rank} of this node has no GPU, "
            f"{torch.cuda.device_count()} are there; expected one for each process, or --device cpu"
        )
    if not has_cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it had to guess
        # Nothing is compiled on CPU; without this DeepSpeed imports the compiler all the same.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    # On CPU DeepSpeed would compile a shared-memory operator at first use: a minute and a half, a
    # compiler needed, and a lock left behind by a killed build. Plain gloo does without.
    __compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed 0.19 calls a collective by the name that torch 2.13 deprecates.
    warnings.filterwarnings("ignore", message=".*all_gather_into_tensor", category=FutureWarning)
    torch.set_num_threads(hardware.threads)
    backend = "nccl" if has_cuda else "gloo"
    if place.processes == 1 and place.port == 0:
        # A store in memory: nothing listens, so single processes never meet.
        os.environ.update(place.environment())
        torch.distributed.init_process_group(
            backend,
            store=torch.distributed.HashStore(),  # type: ignore[attr-defined]  # not in __all__
            rank=0,
            world_size=1,
        )
    else:
        os.environ.update(place.environment())
    if has_cuda:
        torch.cuda.set_device(place.local_rank)
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    return torch.device("cuda", place.local_rank) if has_cuda else torch.device("cpu")


def deepspeed_settings(config: PretrainingConfig, hardware: Hardware) -> dict[str, Any]:
    """Return DeepSpeed's configuration for a recipe on some hardware."""
    return {
        # A micro-batch is counted in tokens, not samples, so DeepSpeed is told of one sample and
        # the loop says itself which backward pass ends an update.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.gradient_clipping or 0.0,
        "zero_optimization": {"stage": hardware.zero_stage, "contiguous_gradients": True},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": config.precision == "bf16"},
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 2**62,
    }


def masked_losses(
    network: nn.Module, batch: MicroBatch, device: torch.device, filling: Filling | None = None
) -> MaskedLosses:
    """Run `network` on a batch and return the sums over its masked positions."""
    packed = PackedTokens.from_tokens(
        torch.from_numpy(batch.tokens).to(device), batch.lengths.tolist()
    )
    if filling is not None:
        packed = packed.filled(
            capacity=filling.capacity, sequences=filling.sequences, longest=filling.longest
        )
    targets = torch.from_numpy(batch.targets).to(device)
    logits = network(packed, torch.from_numpy(batch.masked_positions).to(device)).float()
    return MaskedLosses(
        loss=functional.cross_entropy(logits, targets, reduction="sum"),
        correct=(logits.detach().argmax(-1) == targets).sum(),
    )


class Engine:
    """The encoder under DeepSpeed: gradients summed over processes, Adam, ZeRO.

    Args:
        encoder: float32, the same weights in every process.
        config: the recipe.
        hardware: the layout.
        device: of this process.
    """

    def __init__(
        self,
        encoder: Encoder,
        config: PretrainingConfig,
        hardware: Hardware,
        device: torch.device,
    ) -> None:
        import deepspeed

        self.device = device
        self.filling: Filling | None = None
        if hardware.compile:
            if device.type != "cuda" or config.precision == "fp32":
                raise UserError(
                    f"--compile: on {device.type} in {config.precision}, where attention is not "
                    "varlen; expected CUDA and bf16"
                )
            encoder.compile_layers()
            self.filling = Filling.of(
                micro_batch_tokens=hardware.micro_batch_tokens,
                maximum_tokens=encoder.shape.maximum_tokens,
            )
        self._names = [name for name, _ in encoder.named_parameters()]
        self._processes = torch.distributed.get_world_size()
        matrices = [p for p in encoder.parameters() if p.ndim > 1]
        vectors = [p for p in encoder.parameters() if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            groups,
            lr=config.learning_rate,
            betas=config.adam_betas,
            eps=config.adam_epsilon,
            fused=device.type == "cuda",
        )
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=encoder.to(device),
            optimizer=optimizer,
            config=deepspeed_settings(config, hardware),
        )
        self._create_adam_state()

    @property
    def network(self) -> nn.Module:
        """The network as DeepSpeed runs it."""
        network: nn.Module = self._engine
        return network

    def update(
        self, batches: Sequence[MicroBatch], *, masked_in_update: int, learning_rate: float
    ) -> MaskedLosses:
        """Do one update and return this process's sums.

        Args:
            batches: this process's micro-batches; every process has as many.
            masked_in_update: masked positions of the update over all processes.
            learning_rate: of this update.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        # DeepSpeed averages gradients over the processes; the loss is a sum over all of them
        # divided by the masked positions of the whole update.
        scale = self._processes / max(masked_in_update, 1)
        loss = torch.zeros((), device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        for number, batch in enumerate(batches, start=1):
            self._engine.set_gradient_accumulation_boundary(number == len(batches))
            sums = masked_losses(self._engine, batch, self.device, self.filling)
            self._engine.backward(sums.loss * scale, scale_wrt_gas=False)
            self._engine.step()
            loss += sums.loss.detach()
            correct += sums.correct
        return MaskedLosses(loss=loss, correct=correct)

    def gradient_norm(self) -> float:
        """Return the norm of the whole gradient of the last update, before clipping."""
        return float(self._engine.get_global_grad_norm())

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return float32 `weights`, `first_moments` and `second_moments` by parameter name.

        Collective: every process calls it and gets whole tensors, on CPU.
        """
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        state: dict[str, dict[str, Tensor]] = {
            "weights": {},
            "first_moments": {},
            "second_moments": {},
        }
        for name, parameter in self._parameters():
            state["weights"][name] = safe_get_full_fp32_param(parameter).cpu()
            for kind, key in (("first_moments", "exp_avg"), ("second_moments", "exp_avg_sq")):
                state[kind][name] = safe_get_full_optimizer_state(parameter, key).cpu()
        return state

    @torch.no_grad()
    def load_state(self, state: dict[str, dict[str, Tensor]], *, updates: int) -> None:
        """Go on from `state`, saved after `updates` updates under any number of processes."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        for adam_state in self._optimizer.optimizer.state.values():
            adam_state["step"].fill_(updates)
        for name, parameter in self._parameters():
            weight = state["weights"][name].to(self.device)
            safe_set_full_fp32_param(parameter, weight)
            # The weights of the forward pass are a copy that safe_set leaves as it was.
            parameter.copy_(weight)
            for kind, key in (("first_moments", "exp_avg"), ("second_moments", "exp_avg_sq")):
                safe_set_full_optimizer_state(parameter, state[kind][name].to(self.device), key)

    def _create_adam_state(self) -> None:
        """Give Adam the state that it would make at its first step.

        DeepSpeed links parameters to that state after the first step of the first parameter group,
        before the second group has any; with the state there from the start the links are whole,
        and a checkpoint can be loaded before the first step.
        """
        for group in self._optimizer.optimizer.param_groups:
            for partition in group["params"]:
                self._optimizer.optimizer.state[partition] = {
                    "step": torch.zeros((), device=self.device if group["fused"] else None),
                    "exp_avg": torch.zeros_like(partition),
                    "exp_avg_sq": torch.zeros_like(partition),
                }
        self._optimizer._lazy_init_hp_params_optimizer_state()

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(zip(self._names, self._engine.module.parameters(), strict=True))
