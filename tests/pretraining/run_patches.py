"""What tests change in the processes of a run before it starts."""

import os
import platform
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from esm1b.batches.micro_batch import MicroBatch
from esm1b.errors import UserError
from esm1b.pretraining import preflight
from esm1b.pretraining import trainer as attempt
from esm1b.pretraining.checkpoints import save
from esm1b.pretraining.checkpoints.files import updates_of, write_file
from esm1b.pretraining.engine import deepspeed_engine as engine
from esm1b.pretraining.losses import masked_losses
from esm1b.pretraining.metrics.monitor import Monitor

__all__ = [
    "every_loss_is_infinite",
    "memory_of_the_last_runs_out",
    "memory_runs_out",
    "one_loss_is_infinite",
    "one_loss_is_large",
    "stop_after_six",
    "the_last_has_no_weights",
    "the_last_is_killed",
    "the_third_fails",
    "two_nodes_differ",
    "writing_takes_three_updates",
]


def memory_of_the_last_runs_out(rank: int) -> None:
    """Let the second process alone have too little memory."""
    if rank == 1:
        memory_runs_out(rank)


def memory_runs_out(rank: int) -> None:
    """End the first update as torch does where a GPU is full."""

    def full(self: engine.Engine, batches: Sequence[MicroBatch], **others: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    engine.Engine.update = full  # type: ignore[method-assign]  # in this process


def one_loss_is_infinite(rank: int) -> None:
    """Make the gradient of update 5 infinite, in the last process alone."""
    _scale_losses({5: float("inf")})


def every_loss_is_infinite(rank: int) -> None:
    """Make all gradients infinite."""
    _scale_losses({update: float("inf") for update in range(1, 1000)})


def one_loss_is_large(rank: int) -> None:
    """Make the loss that is logged of update 25 a spike."""
    values = attempt.Trainer._training_values

    def with_spike(self: attempt.Trainer, outcome: Any, masked: int, rate: float) -> Any:
        if self.updates == 25:
            masked = max(masked // 3, 1)
        return values(self, outcome, masked, rate)

    attempt.Trainer._training_values = with_spike  # type: ignore[method-assign]  # in this process


def stop_after_six(rank: int) -> None:
    """Stop as a scheduler would, after update 6."""
    advance = Monitor.advance

    def advance_and_stop(self: Monitor, update: int) -> None:
        advance(self, update)
        if update == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    Monitor.advance = advance_and_stop  # type: ignore[method-assign]  # in this process


def the_last_has_no_weights(rank: int) -> None:
    """Let the second process alone find no weights to start from."""

    def no_weights(encoder: Any, config: Any) -> None:
        if rank == 1:
            raise UserError("model: not on this node")

    vars(attempt)["set_initial_weights"] = no_weights


def the_third_fails(rank: int) -> None:
    """End the third update with an error of the run's own."""
    update = engine.Engine.update
    count = 0

    def failing(self: engine.Engine, batches: Sequence[MicroBatch], **others: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise ValueError("the third update fails")
        return update(self, batches, **others)

    engine.Engine.update = failing  # type: ignore[method-assign]  # in this process


def the_last_is_killed(rank: int) -> None:
    """Kill the second process in its third update."""
    update = engine.Engine.update
    count = 0

    def killed(self: engine.Engine, batches: Sequence[MicroBatch], **others: Any) -> Any:
        nonlocal count
        count += 1
        if rank == 1 and count == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return update(self, batches, **others)

    engine.Engine.update = killed  # type: ignore[method-assign]  # in this process


def two_nodes_differ(rank: int) -> None:
    """Be on three nodes, the second with another torch and the third with another source."""
    platform.node = lambda: f"n{rank + 1}"
    source = "0" * 12 if rank == 2 else "123456789abc"
    vars(preflight)["source_digest"] = lambda: source
    if rank == 1:
        vars(torch)["__version__"] = "2.12.0"


def writing_takes_three_updates(rank: int) -> None:
    """Write no file of a checkpoint before three more updates are done, or all twelve."""
    advance = Monitor.advance
    reached, done = threading.Condition(), 0

    def advance_and_tell(self: Monitor, update: int) -> None:
        nonlocal done
        advance(self, update)
        with reached:
            done = update
            reached.notify_all()

    def write_later(path: Path, *others: Any) -> Any:
        update = updates_of(path.parent.name.removeprefix(".").removesuffix(".partial")) or 0
        with reached:
            assert reached.wait_for(lambda: done >= min(update + 3, 12), timeout=60)
        return write_file(path, *others)

    Monitor.advance = advance_and_tell  # type: ignore[method-assign]  # in this process
    vars(save)["write_file"] = write_later


def _scale_losses(factors: dict[int, float]) -> None:
    update = engine.Engine.update
    count = 0

    def counted(self: engine.Engine, batches: Sequence[MicroBatch], **others: Any) -> Any:
        nonlocal count
        count += 1
        return update(self, batches, **others)

    def scaled(*arguments: Any) -> Any:
        losses = masked_losses(*arguments)
        factor = factors.get(count)
        if factor is None:
            return losses
        return type(losses)(loss=losses.loss * factor, correct=losses.correct)

    engine.Engine.update = counted  # type: ignore[method-assign]  # in this process
    vars(engine)["masked_losses"] = scaled
