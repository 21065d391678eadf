"""One attempt at a run, in one process: from the newest checkpoint to the last update."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed

from esm1b.batches.micro_batch import BatchRecipe, MicroBatch
from esm1b.batches.order import SequenceOrder
from esm1b.batches.stream import UpdateStream
from esm1b.config import Config
from esm1b.corpus.tokens.dataset import TokenDataset
from esm1b.errors import RunFailure, SharedUserError, Stopped
from esm1b.model.encoder import Encoder
from esm1b.pretraining.checkpoints import checkpoint
from esm1b.pretraining.checkpoints.files import checkpoints as saved_checkpoints
from esm1b.pretraining.checkpoints.retention import is_milestone, milestone_path, set_newer_aside
from esm1b.pretraining.checkpoints.saver import Saving
from esm1b.pretraining.distributed.collectives import ActionError, everywhere, on_first
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.distributed.update_totals import Agreement, Totals
from esm1b.pretraining.distributed.watchdog import Watchdog
from esm1b.pretraining.engine.deepspeed_engine import Engine, UpdateOutcome
from esm1b.pretraining.initial_weights import set_initial_weights
from esm1b.pretraining.metrics.metrics_file import METRICS_FILE, read_metrics
from esm1b.pretraining.metrics.monitor import Monitor
from esm1b.pretraining.metrics.spikes import RECENT_LOSSES, is_spike
from esm1b.pretraining.metrics.throughput import Throughput
from esm1b.pretraining.options import Layout, RunOptions
from esm1b.pretraining.schedule import inverse_square_root
from esm1b.pretraining.skipped_updates import SkipRecord
from esm1b.pretraining.validation import BATCH_TOKENS, Validation
from esm1b.stopping import StopRequest
from esm1b.versions import versions
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model

_log = logging.getLogger(__name__)


class Trainer:
    """One attempt in one process. Collective: all processes construct it and call the same methods.

    Args:
        config: of the run.
        train: its training tokens.
        held_out: its validation tokens.
        checkpoints: where it saves and what it goes on from.
        layout: micro-batch, ZeRO stage and device.
        options: options that change no result.
        place: of this process.
        device: of this process.

    Attributes:
        updates: done so far.

    Raises:
        UserError: no checkpoint is whole, or the newest is of a later update than the last one.
    """

    def __init__(
        self,
        config: Config,
        train: TokenDataset,
        held_out: TokenDataset,
        checkpoints: Path,
        *,
        layout: Layout,
        options: RunOptions,
        place: Place,
        device: torch.device,
    ) -> None:
        self._config = config
        self._recipe = config.pretraining
        self._checkpoints = checkpoints
        self._manner = options
        self._place = place
        self._train = train
        self._order = SequenceOrder(
            train.lengths,
            crop_residues=self._recipe.crop_residues,
            tokens_per_update=self._recipe.tokens_per_update,
            seed=config.seed,
        )
        batch_recipe = BatchRecipe(
            crop_residues=self._recipe.crop_residues,
            append_eos=self._recipe.append_eos,
            rare_residues=config.model.rare_residues,
            seed=config.seed,
        )
        self._stream = UpdateStream(
            train,
            self._order,
            batch_recipe,
            micro_batch_tokens=layout.micro_batch_tokens,
            width=config.model.width,
            rank=place.rank,
            processes=place.processes,
            workers=options.loader_workers,
            pin_memory=device.type == "cuda",
        )
        encoder = Encoder(
            config.model.shape(),
            attention=layout.attention,
            activation_checkpointing=layout.activation_checkpointing,
        )
        if not on_first(lambda: bool(saved_checkpoints(checkpoints)), place):
            everywhere(lambda: set_initial_weights(encoder, config), place)
        self._engine = Engine(encoder, self._recipe, layout, device)
        self._validation = Validation(
            held_out,
            batch_recipe,
            sequences=self._recipe.validation_sequences,
            place=place,
            # filled up to the size of training's batches, so that nothing more is compiled
            batch_tokens=(
                BATCH_TOKENS
                if self._engine.filling is None
                else min(BATCH_TOKENS, layout.micro_batch_tokens)
            ),
        )
        self._throughput = Throughput(config, train.lengths, device, place.processes)
        self._saving = Saving(checkpoints, self._recipe, self._engine, place)
        self._skips = SkipRecord(self._order, place)
        self.updates = 0
        is_restart = self._load()
        self._losses = on_first(self._logged_losses, place)
        _log.info(
            "%d parameters, %d training sequences, %.2f epochs in %d updates; process %d of %d "
            "(%s), %s, ZeRO stage %d, %s",
            config.model.shape().parameters(),
            len(train),
            self._order.epoch_at(self._recipe.updates),
            self._recipe.updates,
            place.rank + 1,
            place.processes,
            place.launcher,
            device,
            layout.zero_stage,
            f"going on after update {self.updates}" if is_restart else "starting",
        )

    def train(self, stop: StopRequest, watchdog: Watchdog, *, number: int) -> None:
        """Do the updates that are left.

        Args:
            stop: asks to save and stop.
            watchdog: to be told how far this process is.
            number: of this attempt, from 1; looked at in the first process.

        Raises:
            Stopped: as `stop` asked; everything is saved.
            SaveError: too many saves in a row failed.
            RunFailure: too many updates in a row were not finite, or a loss spike is to end
                the run.
        """
        monitor = self._monitor(number)
        self._export_milestone()
        try:
            with Agreement.open() as agreement:
                self._throughput.restart()
                for batches, totals in self._agreed_updates(agreement, stop, watchdog):
                    self._update(batches, totals, monitor, watchdog)
        finally:
            monitor.close()

    def export(self, output: Path) -> None:
        """Write the model directory. Collective."""
        names = self._engine.names if self._place.rank == 0 else []
        weights = self._engine.state(names, parts=("weights",))["weights"]
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

    def _load(self) -> bool:
        """Go on from the newest checkpoint that is whole; return whether there is one."""
        newest = checkpoint.load_newest(self._checkpoints, self._engine, place=self._place)
        if newest is None:
            return False
        if newest.updates > self._recipe.updates:
            raise SharedUserError(
                f"{self._checkpoints}: its newest checkpoint is of update {newest.updates}; "
                f"expected at most pretraining.updates {self._recipe.updates}, or another directory"
            )
        self.updates = newest.updates
        self._skips.restore(newest.skipped, updates=newest.updates)
        on_first(lambda: set_newer_aside(self._checkpoints, than=newest.updates), self._place)
        return True

    def _logged_losses(self) -> list[float]:
        """Return the last losses that attempts before this one logged of the updates done."""
        path = self._checkpoints / METRICS_FILE
        lines = read_metrics(path) if path.exists() else []
        losses = [line.get("loss") for line in lines if line["update"] <= self.updates]
        return [loss for loss in losses if loss is not None][-RECENT_LOSSES:]

    def _monitor(self, number: int) -> Monitor:
        monitors: list[Monitor] = []

        def open_monitor() -> None:
            monitors.append(
                Monitor(
                    self._checkpoints,
                    attempt=number,
                    first=self.updates,
                    last=self._recipe.updates,
                    active=self._place.rank == 0,
                    wandb_project=self._manner.wandb_project,
                )
            )

        everywhere(open_monitor, self._place)
        return monitors[0]

    def _export_milestone(self) -> None:
        """Write the model directory of a milestone that has none yet; failing, go on."""
        if not is_milestone(self.updates, self._recipe.milestone_interval):
            return
        path = milestone_path(self._checkpoints, self.updates)
        if on_first(path.exists, self._place):
            return
        try:
            self.export(path)
        except ActionError as error:
            if self._place.rank == 0:
                _log.warning("%s: not written: %s; the run goes on", path, error)

    def _agreed_updates(
        self, agreement: Agreement, stop: StopRequest, watchdog: Watchdog
    ) -> Iterator[tuple[list[MicroBatch], Totals]]:
        """Yield each update's micro-batches, and its totals over all processes.

        The totals of the next update are on their way while the caller does the present one.
        """
        stream = self._stream.updates(self.updates, self._recipe.updates)
        following = next(stream, None)
        if following is not None:
            self._start(agreement, following, stop)
        while following is not None:
            batches = following
            watchdog.arrived(self.updates)
            totals = agreement.finish()
            if totals.stop:
                reason = stop.reason() or "another process was asked to"
                if self._place.rank == 0:
                    _log.info("stopping (%s): saving after update %d", reason, self.updates)
                self._skips.note(but_newest=0)
                self._saving.save(self.updates, self._skips.skipped, is_last=True)
                raise Stopped(
                    f"saved after update {self.updates} of {self._recipe.updates} ({reason})"
                )
            following = next(stream, None)
            if following is not None:
                self._start(agreement, following, stop)
            yield batches, totals

    def _start(self, agreement: Agreement, batches: list[MicroBatch], stop: StopRequest) -> None:
        filling = self._engine.filling
        tokens = sum(len(batch.tokens) for batch in batches)
        agreement.start(
            masked=sum(len(batch.targets) for batch in batches),
            tokens=sum(len(batch.tokens) for batch in batches if len(batch.targets)),
            padded=tokens if filling is None else filling.capacity * len(batches),
            stop=stop.is_made(),
        )

    def _update(
        self, batches: list[MicroBatch], totals: Totals, monitor: Monitor, watchdog: Watchdog
    ) -> None:
        """Do an update, and what is due after it."""
        rate = inverse_square_root(
            self.updates + 1,
            peak=self._recipe.learning_rate,
            warmup_updates=self._recipe.warmup_updates,
        )
        outcome = self._engine.update(batches, masked_in_update=totals.masked, learning_rate=rate)
        watchdog.arrived(self.updates, 1)  # on a GPU, the host is through before the others are
        self.updates += 1
        self._skips.push(self.updates, outcome.skipped)
        self._throughput.add(tokens=totals.tokens, padded=totals.padded)
        monitor.advance(self.updates)
        is_last = self.updates == self._recipe.updates
        is_saved = self._saving.is_due(self.updates)
        is_logged = is_last or self.updates % self._recipe.log_interval == 0
        self._skips.note(but_newest=0 if is_saved or is_logged else 1)
        if is_logged:
            monitor.write(self.updates, self._training_values(outcome, totals.masked, rate))
        if is_last or self.updates % self._recipe.validation_interval == 0:
            engine = self._engine
            values = self._validation.values(engine.network, engine.device, engine.filling)
            monitor.write(self.updates, values)
            self._throughput.restart()
        if is_saved:
            self._saving.save(self.updates, self._skips.skipped, is_last=is_last)
            self._export_milestone()
            self._throughput.restart()

    def _training_values(
        self, outcome: UpdateOutcome, masked: int, rate: float
    ) -> dict[str, float | int | None]:
        """Return what is logged of an update. Collective; waits for the device.

        Raises:
            RunFailure: the loss is a spike, and such are to end the run.
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
            "perplexity": math.exp(min(loss, 700)),
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
