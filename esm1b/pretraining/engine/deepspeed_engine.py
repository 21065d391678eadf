"""DeepSpeed around the encoder: an update is a sum of losses over all processes, divided once."""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from threading import Event
from typing import Final

import torch
import torch.distributed
from pydantic import ValidationError
from torch import Tensor, nn

from esm1b.batches.micro_batch import MicroBatch
from esm1b.batches.packing import Filling
from esm1b.config import PretrainingConfig
from esm1b.errors import SharedUserError
from esm1b.model.encoder import Encoder
from esm1b.pretraining.distributed.rendezvous import in_thread
from esm1b.pretraining.engine.deepspeed_settings import (
    check_compiled,
    check_layout,
    deepspeed_settings,
)
from esm1b.pretraining.engine.zero_state import PARTS, sharding_of
from esm1b.pretraining.losses import masked_losses
from esm1b.pretraining.options import Layout

# The attributes of DeepSpeed's DynamicLossScaler that change, by their names in a checkpoint.
_LOSS_SCALE: Final = {
    "scale": "cur_scale",
    "updates": "cur_iter",
    "last_overflow": "last_overflow_iter",
    "hysteresis": "cur_hysteresis",
}


@dataclass(frozen=True, kw_only=True)
class UpdateOutcome:
    """The result of an update, as 0-d tensors on the device.

    Attributes:
        loss: float32, cross-entropy in nats, the sum over this process's masked positions.
        correct: int64, this process's masked positions whose likeliest token is the true one.
        gradient_norm: float32, norm of the whole gradient before clipping; infinite if skipped.
        skipped: bool, the same in all processes: the gradient was not finite (in fp16: it
            overflowed), so weights, moments and Adam's step did not change.
    """

    loss: Tensor
    correct: Tensor
    gradient_norm: Tensor
    skipped: Tensor


class Engine:
    """The float32 encoder, alike in all processes, under DeepSpeed: summed gradients, Adam, ZeRO.

    Attributes:
        network: network as DeepSpeed runs it.
        filling: fixed size of micro-batches; None unless the layers are compiled.
        shapes: shapes of the parameters by name, in the order of the network.

    Raises:
        UserError: the layout does not train this recipe, see `check_layout`.
    """

    def __init__(
        self, encoder: Encoder, config: PretrainingConfig, layout: Layout, device: torch.device
    ) -> None:
        import deepspeed

        self._precision: str = config.precision
        check_layout(self._precision, layout)
        if self._precision == "fp16" and not deepspeed.get_accelerator().is_fp16_supported():
            raise SharedUserError(
                f"pretraining.precision: fp16, in which DeepSpeed does not train on {device.type} "
                "here; expected CUDA, or bf16 or fp32"
            )
        self.device = device
        self.filling: Filling | None = None
        if layout.compile:
            check_compiled(encoder.shape, encoder.attention, device.type, self._precision)
            encoder.compile_layers()
            self.filling = Filling.of(
                micro_batch_tokens=layout.micro_batch_tokens,
                maximum_tokens=encoder.shape.maximum_tokens,
            )
        self.shapes = {name: parameter.shape for name, parameter in encoder.named_parameters()}
        self._processes = torch.distributed.get_world_size()
        self._gradient_copies = self._processes if layout.zero_stage == 0 else 1
        self._clipping = config.gradient_clipping
        self._copied = Event()
        self._copied.set()
        initial = {name: parameter.data for name, parameter in encoder.named_parameters()}
        self._adam = _adam(encoder.to(device), config)
        settings = deepspeed_settings(config, layout)
        try:
            with redirect_stdout(StringIO()):  # in bf16 DeepSpeed prints its memory at each step
                self._engine, self._optimizer, _, _ = deepspeed.initialize(
                    model=encoder, optimizer=self._adam, config=settings
                )
        except ValidationError as error:
            problems = "; ".join(f"{e['loc']}: {e['input']!r}: {e['msg']}" for e in error.errors())
            raise SharedUserError(f"{layout.deepspeed_file}: {problems}") from error
        self.network: nn.Module = self._engine
        self._parameters = dict(zip(self.shapes, self._engine.module.parameters(), strict=True))
        self._sharding = sharding_of(self._optimizer, self._adam)
        if self._precision == "fp16":
            # An update that overflows at the least loss scale is skipped like any other.
            self._optimizer.loss_scaler.raise_error_at_min_scale = False
        else:
            self._sharding.decide_alone()
        if self._precision != "fp32":
            # DeepSpeed rounded the weights before it copied them to float32.
            self._write("weights", initial.__getitem__)
            self._sharding.publish()

    def update(
        self, batches: Sequence[MicroBatch], *, masked_in_update: int, learning_rate: float
    ) -> UpdateOutcome:
        """Do one update.

        The host waits for the device in fp16, for the loss scale, and wherever DeepSpeed does after
        a backward pass: at stage 3, and with its `overlap_comm`.

        Every process has the same number of micro-batches, at least one; `masked_in_update` counts
        the masked positions of all of them in all processes.
        """
        for group in self._adam.param_groups:
            group["lr"] = learning_rate
        # DeepSpeed averages gradients over the processes; the loss is a sum over all of them
        # divided by the masked positions of the whole update.
        scale = self._processes / max(masked_in_update, 1)
        loss = torch.zeros((), device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        for missing, batch in enumerate(batches, start=1 - len(batches)):
            self._engine.set_gradient_accumulation_boundary(missing == 0)
            sums = masked_losses(self._engine, batch, self.device, self.filling)
            self._engine.backward(sums.loss * scale, scale_wrt_gas=False)
            loss += sums.loss.detach()
            correct += sums.correct
            if missing < 0:
                self._engine.step()
        norm = self._gradient_norm()
        skipped = ~torch.isfinite(norm)
        # Fused Adam does nothing if `found_inf` is 1, and divides gradients by `grad_scale`.
        self._adam.found_inf = skipped.float()  # type: ignore[attr-defined]  # torch's own GradScaler sets both so
        if self._clipping is not None:
            self._adam.grad_scale = (norm / self._clipping).clamp(min=1.0)  # type: ignore[attr-defined]
        self._copied.wait()
        self._engine.step()
        if self._precision == "fp16":
            skipped = torch.full_like(skipped, self._optimizer.overflow)
        return UpdateOutcome(
            loss=loss,
            correct=correct,
            gradient_norm=norm.masked_fill(skipped, torch.inf),
            skipped=skipped,
        )

    @torch.no_grad()
    def tensors(self, part: str, names: Collection[str]) -> dict[str, Tensor]:
        """Return copies of whole float32 tensors of one of `PARTS` on the CPU, by parameter name.

        Collective: all processes ask for the same part, each for any names.
        """
        found = {}
        for name, parameter in self._parameters.items():
            tensor = self._sharding.read(parameter, PARTS[part])
            if name not in names:
                continue
            if tensor.is_cuda:  # into pages that stay locked and are used again by the next save
                host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                found[name] = host.copy_(tensor, non_blocking=True)
            else:
                found[name] = tensor.clone() if self._sharding.is_live else tensor
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return found

    def copies(self, names: Collection[str]) -> Future[dict[str, dict[str, Tensor]]]:
        """Return, by part, copies of the state as it is now, like `tensors`. Collective.

        Where the state lies whole in host memory a thread makes them, during the next forward and
        backward passes, which only read it; the update then waits for the thread.
        """
        copied = self._copied = Event()

        def read() -> dict[str, dict[str, Tensor]]:
            try:
                return {part: self.tensors(part, names) for part in PARTS}
            finally:
                copied.set()

        if self._sharding.is_live and self.device.type == "cpu":
            return in_thread(read)
        copies: Future[dict[str, dict[str, Tensor]]] = Future()
        copies.set_result(read())
        return copies

    def load(
        self,
        read: Callable[[str, str], Tensor],
        *,
        adam_steps: int,
        scaler: Mapping[str, float] | None,
    ) -> None:
        """Resume from a state that was saved under any layout. Collective.

        `read` returns the whole float32 tensor of a part and a parameter name; it is called only
        for tensors with a share in this process. `adam_steps` and `scaler` are what those methods
        returned when the state was saved; `scaler` is used in fp16 only.
        """
        for part in PARTS:
            self._write(part, partial(read, part))
        for state in self._adam.state.values():
            state["step"].fill_(adam_steps)
        if scaler is not None and self._precision == "fp16":
            ours = self._optimizer.loss_scaler
            for name, attribute in _LOSS_SCALE.items():
                setattr(ours, attribute, type(getattr(ours, attribute))(scaler[name]))
        self._sharding.publish()

    def adam_steps(self) -> int:
        """Return the number of updates that Adam did; skipped ones do not count."""
        return int(next(iter(self._adam.state.values()))["step"])

    def scaler(self) -> dict[str, float] | None:
        """Return the dynamic loss scale and its counters; None except in fp16."""
        if self._precision != "fp16":
            return None
        scaler = self._optimizer.loss_scaler
        return {name: getattr(scaler, attribute) for name, attribute in _LOSS_SCALE.items()}

    @torch.no_grad()
    def _gradient_norm(self) -> Tensor:
        """Return the norm of the whole gradient, float32 `[]`.

        It is not finite if any element is not, or if the square of the norm overflows float32, as
        Adam's second moment would.
        """
        squares = [
            torch.linalg.vector_norm(piece, dtype=torch.float64).square()
            for piece in self._sharding.gradients()
        ]
        total = torch.stack(squares).sum() / self._gradient_copies
        torch.distributed.all_reduce(total)
        if self._precision == "fp16":
            total = total / self._optimizer.loss_scale**2
        return total.float().sqrt()

    @torch.no_grad()
    def _write(self, part: str, read: Callable[[str], Tensor]) -> None:
        for name, parameter in self._parameters.items():
            if self._sharding.holds(parameter):
                value = read(name).to(self.device)
                self._sharding.write(parameter, PARTS[part], value)


def _adam(encoder: Encoder, config: PretrainingConfig) -> torch.optim.AdamW:
    """Return Adam with decoupled weight decay of the matrices only."""
    matrices = [p for p in encoder.parameters() if p.ndim > 1]
    vectors = [p for p in encoder.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=config.adam_betas,
        eps=config.adam_epsilon,
        fused=True,
    )
