"""One attempt at a run, in one process: from the newest checkpoint to the last update."""

import logging
import math
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed

from esm1b.batches.micro_batch import MicroBatch
from esm1b.batches.stream import UpdateStream
from esm1b.config import Config
from esm1b.corpus.tokens.dataset import TokenDataset
from esm1b.errors import RunFailure, SharedUserError, Stopped
from esm1b.freed_memory import give_back_freed_memory
from esm1b.model.encoder import Encoder
from esm1b.pretraining.checkpoints.checkpoint import load_newest
from esm1b.pretraining.checkpoints.files import saved_checkpoints, set_newer_aside
from esm1b.pretraining.checkpoints.saver import Saver, checkpoint_bytes
from esm1b.pretraining.distributed.collectives import Agreement, Totals, everywhere, on_first
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.distributed.watchdog import Watchdog
from esm1b.pretraining.engine.deepspeed_engine import Engine, UpdateOutcome
from esm1b.pretraining.losses import perplexity
from esm1b.pretraining.metrics.metrics_file import is_spike, recent_losses
from esm1b.pretraining.metrics.monitor import Monitor
from esm1b.pretraining.metrics.throughput import Throughput
from esm1b.pretraining.options import Layout, RunOptions
from esm1b.pretraining.recipe import (
    batch_recipe,
    learning_rate,
    sequence_order,
    set_initial_weights,
)
from esm1b.pretraining.skipped_updates import SkipRecord
from esm1b.pretraining.stop_time import StopTime
from esm1b.pretraining.validation import BATCH_TOKENS, Validation
from esm1b.stopping import StopRequest
from esm1b.versions import versions
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model

_log = logging.getLogger(__name__)


class Trainer:
    """One attempt in one process. Collective: all processes construct it and call the same methods.

    Attributes:
        updates: number of updates done.

    Raises:
        UserError: all checkpoints are damaged, or the newest is of a later update than the last.
    """

    def __init__(
        self,
        config: Config,
        train: TokenDataset,
        held_out: TokenDataset,
        directory: Path,
        *,
        layout: Layout,
        options: RunOptions,
        place: Place,
        device: torch.device,
    ) -> None:
        self._config = config
        self._recipe = config.pretraining
        self._train = train
        self._directory = directory
        self._wandb_project = options.wandb_project
        self._place = place
        self._order = sequence_order(config, train.lengths)
        self._stream = UpdateStream(
            train,
            self._order,
            batch_recipe(config),
            micro_batch_tokens=layout.micro_batch_tokens,
            width=config.model.width,
            rank=place.rank,
            processes=place.processes,
            workers=options.loader_workers,
            pin_memory=device.type == "cuda",
        )
        self._engine = self._build_engine(layout, device)
        # filled up to the size of training's batches, so that nothing more is compiled
        limit = layout.micro_batch_tokens if layout.compile else BATCH_TOKENS
        self._validation = Validation(
            held_out,
            batch_recipe(config),
            sequences=self._recipe.validation_sequences,
            place=place,
            batch_tokens=min(BATCH_TOKENS, limit),
        )
        self._throughput = Throughput(config, train.lengths, device, place.processes)
        self._saver = Saver(
            directory, self._recipe, self._engine, place, self.export, minutes=options.save_minutes
        )
        self._skips = SkipRecord(self._order, place)
        self.updates = 0
        is_resumed = self._resume()
        self._losses = on_first(lambda: recent_losses(directory, self.updates), place)
        _log.info(
            f"{config.model.shape().parameters()} parameters, {len(train)} training sequences, "
            f"{self._order.epoch_at(self._recipe.updates):.2f} epochs in {self._recipe.updates} "
            f"updates; process {place.rank + 1} of {place.processes} ({place.launcher}), {device}, "
            f"ZeRO stage {layout.zero_stage}, "
            + (f"resuming after update {self.updates}" if is_resumed else "starting")
        )

    def train(self, stop: StopRequest, watchdog: Watchdog, *, number: int) -> None:
        """Do the remaining updates in attempt `number`, which only the first process must know.

        Raises:
            Stopped: `stop` asked for it, and everything is saved.
            SaveError: too many saves in a row failed.
            RunFailure: too many updates in a row were not finite, or a loss spike ends the run.
        """
        monitors: list[Monitor] = []
        open_monitor = partial(
            Monitor,
            self._directory,
            attempt=number,
            first=self.updates,
            last=self._recipe.updates,
            active=self._place.rank == 0,
            wandb_project=self._wandb_project,
        )
        everywhere(lambda: monitors.append(open_monitor()), self._place)
        with closing(monitors[0]) as monitor:
            self._saver.export_milestone(self.updates)
            size = checkpoint_bytes(self._config.model.shape().parameters())
            timing = StopTime(stop, checkpoint_bytes=size)
            with Agreement.open() as agreement, self._saver.settled():
                self._throughput.restart()
                for batches, totals in self._agreed_updates(agreement, stop, watchdog, timing):
                    timing.turn(save_seconds=self._saver.seconds)
                    self._update(batches, totals, monitor, watchdog, timing)

    def export(self, output: Path) -> None:
        """Write the model directory. Collective."""
        names = self._engine.shapes if self._place.rank == 0 else ()
        weights = self._engine.tensors("weights", names)
        provenance = Provenance(
            rare_residues=self._config.model.rare_residues,
            details={
                "run": self._config.run,
                "updates": self.updates,
                "tokens_fingerprint": self._train.fingerprint,
                "data": {
                    "corpus_fingerprint": self._train.corpus_fingerprint,
                    "training_sequences": len(self._train),
                    "training_residues": int(self._train.lengths.sum(dtype=np.int64)),
                },
                "seed": self._config.seed,
                "versions": versions(),
                "model": self._config.model.model_dump(mode="json"),
                "pretraining": self._recipe.model_dump(mode="json"),
            },
        )

        def write() -> None:
            encoder = Encoder(self._config.model.shape())
            encoder.load_state_dict(weights)
            save_model(encoder, output, provenance)

        on_first(write, self._place)

    def _build_engine(self, layout: Layout, device: torch.device) -> Engine:
        encoder = Encoder(
            self._config.model.shape(),
            attention=layout.attention,
            activation_checkpointing=layout.activation_checkpointing,
        )
        if not on_first(lambda: bool(saved_checkpoints(self._directory)), self._place):
            everywhere(lambda: set_initial_weights(encoder, self._config), self._place)
        return Engine(encoder, self._recipe, layout, device)

    def _resume(self) -> bool:
        """Load the newest whole checkpoint; return whether there is one."""
        newest = load_newest(self._directory, self._engine, place=self._place)
        if newest is None:
            return False
        if newest.updates > self._recipe.updates:
            raise SharedUserError(
                f"{self._directory}: its newest checkpoint is of update {newest.updates}; expected "
                f"at most pretraining.updates {self._recipe.updates}, or another directory"
            )
        self.updates = newest.updates
        self._skips.skipped = newest.skipped
        on_first(lambda: set_newer_aside(self._directory, than=newest.updates), self._place)
        self._saver.remove_old()  # a kill may have come before it
        return True

    def _agreed_updates(
        self, agreement: Agreement, stop: StopRequest, watchdog: Watchdog, timing: StopTime
    ) -> Iterator[tuple[list[MicroBatch], Totals]]:
        """Yield each update's micro-batches, and its totals over all processes.

        The totals of the next update are under way while the caller does the current one.
        """

        def start_next() -> list[MicroBatch] | None:
            batches = next(stream, None)
            if batches is not None:
                tokens = sum(len(batch.tokens) for batch in batches)
                agreement.start(
                    masked=sum(len(batch.targets) for batch in batches),
                    tokens=sum(len(batch.tokens) for batch in batches if len(batch.targets)),
                    padded=tokens if filling is None else filling.capacity * len(batches),
                    stop=stop.is_made(),
                    save=self._place.rank == 0 and self._saver.is_time(),
                    is_written=self._saver.is_written(),
                )
            return batches

        filling = self._engine.filling
        stream = self._stream.updates(self.updates, self._recipe.updates)
        following = start_next()
        while (batches := following) is not None:
            watchdog.arrived(self.updates)
            totals = agreement.finish()
            if totals.shares_written == self._place.processes:
                with timing.saving():
                    self._saver.finish(self.updates)
            if totals.stop:
                self._stop(stop.reason() or "another process was asked to")
            following = start_next()
            yield batches, totals

    def _stop(self, reason: str) -> None:
        if self._place.rank == 0:
            _log.info("stopping (%s): saving after update %d", reason, self.updates)
        self._skips.read()
        self._saver.save(self.updates, self._skips.skipped, is_last=True)
        raise Stopped(f"saved after update {self.updates} of {self._recipe.updates} ({reason})")

    def _update(
        self,
        batches: list[MicroBatch],
        totals: Totals,
        monitor: Monitor,
        watchdog: Watchdog,
        timing: StopTime,
    ) -> None:
        """Do an update, and whatever is due after it."""
        rate = learning_rate(self._recipe, self.updates + 1)
        outcome = self._engine.update(batches, masked_in_update=totals.masked, learning_rate=rate)
        watchdog.arrived(self.updates, 1)  # on a GPU, the host is done before the others are
        self.updates += 1
        self._skips.push(self.updates, outcome.skipped)
        self._throughput.add(tokens=totals.tokens, padded=totals.padded)
        monitor.advance(self.updates)
        is_last = self.updates == self._recipe.updates
        is_saved = self._saver.is_due(self.updates, is_asked=totals.save)
        is_logged = is_last or self.updates % self._recipe.log_interval == 0
        self._skips.read(but_newest=0 if is_saved or is_logged else 1)
        if is_logged:
            monitor.write(self.updates, self._training_values(outcome, totals.masked, rate))
            give_back_freed_memory()
        if is_last or self.updates % self._recipe.validation_interval == 0:
            engine = self._engine
            values = self._validation.values(engine.network, engine.device, engine.filling)
            monitor.write(self.updates, values)
            self._throughput.restart()
        if is_saved:
            with timing.saving():
                self._saver.save(self.updates, self._skips.skipped, is_last=is_last)
            self._saver.export_milestone(self.updates)
            self._throughput.restart()

    def _training_values(
        self, outcome: UpdateOutcome, masked: int, rate: float
    ) -> dict[str, float | int | None]:
        """Return the metrics of an update. Collective; waits for the device.

        Raises:
            RunFailure: the loss is a spike, and a spike ends the run.
        """
        sums = torch.stack((outcome.loss.double(), outcome.correct.double()))
        torch.distributed.all_reduce(sums)
        most = sums.new_tensor([self._throughput.memory_gib(), self._stream.take_wait()])
        torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
        memory, wait = most.tolist()
        loss, accuracy = (sums / max(masked, 1)).tolist()
        if is_spike(loss, self._losses):
            message = f"update {self.updates}: its loss of {loss:.4g} is far above those before it"
            if self._recipe.stop_at_loss_spike and math.isfinite(loss):
                raise RunFailure(f"{message}, and pretraining.stop_at_loss_spike is set")
            if self._place.rank == 0:
                _log.warning("%s", message)
        self._losses.append(loss)
        return {
            "loss": loss,
            "perplexity": perplexity(loss),
            "accuracy": accuracy,
            "learning_rate": rate,
            "gradient_norm": float(outcome.gradient_norm),
            **self._throughput.values(),
            "memory_gib": memory,
            "data_wait_seconds": wait,
            "epoch": self._order.epoch_at(self.updates),
            "sequences_seen": self._order.sequences_seen(self.updates),
            "skipped": len(self._skips.skipped),
        }
