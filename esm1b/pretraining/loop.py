"""The run: from the newest checkpoint to the last update and the model directory."""

import fcntl
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from esm1b.batches.order import SequenceOrder
from esm1b.batches.stream import BatchRecipe, MicroBatch, UpdateStream
from esm1b.config import Config
from esm1b.corpus.tokens import TokenDataset, open_tokens
from esm1b.errors import Stopped, UserError
from esm1b.files import check_replaceable
from esm1b.model.encoder import Encoder, initialise
from esm1b.model.provenance import Provenance
from esm1b.model.weights import save_model
from esm1b.pretraining import checkpoint
from esm1b.pretraining.engine import Engine, Hardware, MaskedLosses, start_processes
from esm1b.pretraining.launch import Place, place_from_environment
from esm1b.pretraining.monitor import Monitor
from esm1b.pretraining.schedule import inverse_square_root
from esm1b.pretraining.validation import VALIDATION_SEED, validate, validation_batches
from esm1b.versions import versions

__all__ = ["pretrain", "run_fingerprint"]

_log = logging.getLogger(__name__)

# What may change between attempts of one run, besides hardware.
_NOT_IN_FINGERPRINT = {
    "updates",
    "log_interval",
    "validation_interval",
    "validation_sequences",
    "checkpoint_interval",
    "checkpoints_kept",
}


def pretrain(
    config: Config, tokens: Path, checkpoints: Path, output: Path, hardware: Hardware
) -> None:
    """Train the model of `config` and write it to `output`; go on from the newest checkpoint.

    Runs in every process of the launcher.

    Raises:
        UserError: the data or the recipe is not that of the checkpoints, or the directory is in
            use by another run.
        Stopped: a signal asked to stop; everything is saved.
    """
    place = place_from_environment(os.environ)
    dataset = open_tokens(tokens, "train")
    held_out = open_tokens(tokens, "validation")
    checkpoints.mkdir(parents=True, exist_ok=True)
    device = start_processes(place, hardware)
    try:
        with ExitStack() as held, _stop_requests() as stop:

            def start() -> None:
                held.enter_context(_lock(checkpoints))
                checkpoint.check_fingerprint(checkpoints, run_fingerprint(config, dataset))
                check_replaceable(output)

            _on_first_process(place, start)
            run = _Run(config, dataset, held_out, checkpoints, hardware, place, device)
            run.train(stop)
            run.export(output)
    finally:
        torch.distributed.destroy_process_group()


def run_fingerprint(config: Config, dataset: TokenDataset) -> dict[str, Any]:
    """Return, as flat keys, what determines the updates of a run."""
    recipe = config.pretraining.model_dump(mode="json", exclude=_NOT_IN_FINGERPRINT)
    return {
        "tokens": dataset.fingerprint,
        "seed": config.seed,
        **{f"model.{key}": value for key, value in config.model.model_dump(mode="json").items()},
        **{f"pretraining.{key}": value for key, value in recipe.items()},
    }


class _Run:
    """One attempt in one process."""

    def __init__(
        self,
        config: Config,
        dataset: TokenDataset,
        held_out: TokenDataset,
        checkpoints: Path,
        hardware: Hardware,
        place: Place,
        device: torch.device,
    ) -> None:
        self.config = config
        self.recipe = config.pretraining
        self.checkpoints = checkpoints
        self.place = place
        self.device = device
        self.dataset = dataset
        self.order = SequenceOrder(
            dataset.lengths,
            crop_residues=self.recipe.crop_residues,
            tokens_per_update=self.recipe.tokens_per_update,
            seed=config.seed,
        )
        batch_recipe = BatchRecipe(
            crop_residues=self.recipe.crop_residues,
            append_eos=self.recipe.append_eos,
            rare_residues=config.model.rare_residues,
            seed=config.seed,
        )
        layout = {
            "micro_batch_tokens": hardware.micro_batch_tokens,
            "width": config.model.width,
            "rank": place.rank,
            "processes": place.processes,
        }
        self.stream = UpdateStream(dataset, self.order, batch_recipe, **layout)
        self.validation = validation_batches(
            held_out,
            BatchRecipe(
                crop_residues=self.recipe.crop_residues,
                append_eos=self.recipe.append_eos,
                rare_residues=config.model.rare_residues,
                seed=VALIDATION_SEED,
            ),
            sequences=self.recipe.validation_sequences,
            **layout,
        )
        encoder = Encoder(
            config.model.shape(),
            attention=hardware.attention,
            activation_checkpointing=hardware.activation_checkpointing,
        )
        initialise(encoder, config.seed)
        self.engine = Engine(encoder, self.recipe, hardware, device)
        self.updates = 0
        newest = checkpoint.load_newest(checkpoints)
        if newest is not None:
            if newest.updates > self.recipe.updates:
                raise UserError(
                    f"{checkpoints}: its newest checkpoint is of update {newest.updates}; expected "
                    f"at most pretraining.updates {self.recipe.updates}, or another directory"
                )
            self.engine.load_state(newest.tensors, updates=newest.updates)
            self.updates = newest.updates
            _on_first_process(
                place, lambda: checkpoint.remove_newer(checkpoints, than=self.updates)
            )
        _log.info(
            "%d parameters, %d training sequences, %.2f epochs in %d updates; process %d of %d "
            "(%s), %s, ZeRO stage %d, %s",
            config.model.shape().parameters(),
            len(dataset),
            self.order.epoch_at(self.recipe.updates),
            self.recipe.updates,
            place.rank + 1,
            place.processes,
            place.launcher,
            device,
            hardware.zero_stage,
            f"going on after update {self.updates}" if newest else "starting",
        )

    def train(self, stop: "_StopRequest") -> None:
        """Do the updates that are left."""
        last = self.recipe.updates
        monitor = Monitor(
            self.checkpoints, first=self.updates, last=last, active=self.place.rank == 0
        )
        try:
            started, tokens = time.perf_counter(), 0
            for batches in self.stream.updates(self.updates, last):
                masked, tokens_now, stopping = self._agree(batches, stop)
                if stopping:
                    self.save()
                    raise Stopped(f"saved after update {self.updates} of {last}")
                rate = inverse_square_root(
                    self.updates + 1,
                    peak=self.recipe.learning_rate,
                    warmup_updates=self.recipe.warmup_updates,
                )
                sums = self.engine.update(batches, masked_in_update=masked, learning_rate=rate)
                self.updates += 1
                tokens += tokens_now
                monitor.advance(self.updates)
                is_last = self.updates == last
                if is_last or self.updates % self.recipe.log_interval == 0:
                    values = self._training_values(sums, masked, rate)
                    values["tokens_per_second"] = tokens / (time.perf_counter() - started)
                    monitor.write(self.updates, values)
                    started, tokens = time.perf_counter(), 0
                if is_last or self.updates % self.recipe.validation_interval == 0:
                    result = validate(
                        self.engine.network, self.validation, self.device, self.engine.filling
                    )
                    monitor.write(
                        self.updates,
                        {
                            "validation_loss": result.loss,
                            "validation_perplexity": result.perplexity,
                            "validation_accuracy": result.accuracy,
                        },
                    )
                    started, tokens = time.perf_counter(), 0
                if is_last or self.updates % self.recipe.checkpoint_interval == 0:
                    self.save()
                    started, tokens = time.perf_counter(), 0
        finally:
            monitor.close()

    def save(self) -> None:
        """Write a checkpoint and remove old ones; every process takes part."""
        state = checkpoint.Checkpoint(updates=self.updates, tensors=self.engine.state())

        def write() -> None:
            checkpoint.save(self.checkpoints, state)
            checkpoint.remove_old(self.checkpoints, keep=self.recipe.checkpoints_kept)

        _on_first_process(self.place, write)

    def export(self, output: Path) -> None:
        """Write the model directory; every process takes part."""
        weights = self.engine.state()["weights"]
        provenance = Provenance(
            rare_residues=self.config.model.rare_residues,
            details={
                "run": self.config.run,
                "updates": self.updates,
                "tokens_fingerprint": self.dataset.fingerprint,
                "data": {
                    "corpus_fingerprint": self.dataset.corpus_fingerprint,
                    "training_sequences": len(self.dataset),
                    "training_residues": int(self.dataset.lengths.sum(dtype=np.int64)),
                },
                "seed": self.config.seed,
                "versions": versions(),
                "model": self.config.model.model_dump(mode="json"),
                "pretraining": self.recipe.model_dump(mode="json"),
            },
        )

        def write() -> None:
            encoder = Encoder(self.config.model.shape())
            encoder.load_state_dict(weights)
            save_model(encoder, output, provenance)

        _on_first_process(self.place, write)

    def _agree(self, batches: list[MicroBatch], stop: "_StopRequest") -> tuple[int, int, bool]:
        """Return, over all processes, masked positions, tokens, and whether to stop."""
        mine = [
            sum(len(batch.targets) for batch in batches),
            sum(len(batch.tokens) for batch in batches if len(batch.targets)),
            int(stop.asked),
        ]
        totals = torch.tensor(mine, dtype=torch.int64, device=self.device)
        torch.distributed.all_reduce(totals)
        masked, tokens, stopping = totals.tolist()
        return masked, tokens, stopping > 0

    def _training_values(
        self, sums: MaskedLosses, masked: int, rate: float
    ) -> dict[str, float | int | None]:
        totals: Tensor = torch.stack((sums.loss.double(), sums.correct.double()))
        torch.distributed.all_reduce(totals)
        loss, correct = (totals / max(masked, 1)).tolist()
        if not math.isfinite(loss):
            raise ArithmeticError(f"the loss of update {self.updates} is {loss}")
        return {
            "loss": loss,
            "perplexity": math.exp(loss),
            "accuracy": correct,
            "learning_rate": rate,
            "gradient_norm": self.engine.gradient_norm(),
            "epoch": self.order.epoch_at(self.updates),
        }


class _StopRequest:
    asked = False


@contextmanager
def _stop_requests() -> Iterator[_StopRequest]:
    """Turn SIGTERM, SIGINT and SIGUSR1 into a flag that the loop reads between updates."""
    request = _StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        request.asked = True

    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """Keep a second run out of `directory`; the lock goes with the process that holds it."""
    with (directory / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"{directory}: another process is training here; expected to be the only one"
            ) from error
        yield


def _on_first_process(place: Place, action: Callable[[], None]) -> None:
    """Do `action` in the first process while the others wait; if it fails, all of them end.

    Raises:
        UserError: the action's own, in every process.
        RuntimeError: the action failed otherwise; the first process raises what happened.
    """
    failure: list[tuple[bool, str] | None] = [None]
    caught: Exception | None = None
    if place.rank == 0:
        try:
            action()
        except Exception as error:  # whatever it is, the others must not wait for ever
            caught = error
            failure = [(isinstance(error, UserError), str(error))]
    torch.distributed.broadcast_object_list(failure, src=0)
    if caught is not None:
        raise caught
    if failure[0] is not None:
        is_users, message = failure[0]
        raise UserError(message) if is_users else RuntimeError(f"the first process: {message}")
