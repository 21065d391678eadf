"""The two sides of the trainer's benchmark: the whole trainer, and the bare model."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from threading import Thread
from time import perf_counter
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.interleaving import Work
from benchmarks.masked_sequences import PackedBatch
from benchmarks.sections import Sections, divide_trainer
from esm1b.batches.micro_batch import MicroBatch
from esm1b.batches.packing import Filling
from esm1b.batches.stream import UpdateStream
from esm1b.config import Config
from esm1b.corpus.tokens.dataset import open_tokens
from esm1b.files import write_json
from esm1b.model.encoder import Encoder
from esm1b.model.packed import PackedTokens
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.distributed.watchdog import Watchdog
from esm1b.pretraining.metrics.metrics_file import read_metrics
from esm1b.pretraining.options import Layout, RunOptions
from esm1b.pretraining.recipe import (
    batch_recipe,
    learning_rate,
    sequence_order,
    set_initial_weights,
)
from esm1b.pretraining.start_processes import start_processes
from esm1b.pretraining.trainer import Trainer
from esm1b.stopping import StopRequest

WARM_UP: Final = 10
"""Updates before the clock starts, and between two log lines, so that the last one is logged."""

BEYOND: Final = 10
"""Updates after the last timed one; the trainer never comes to the end of its run."""

SAVE_AFTER: Final = 3
"""Updates from the last timed one to the checkpoint."""

VALIDATE_AFTER: Final = 8
"""Updates from the last timed one to the validation."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The training run of both sides.

    Attributes:
        tokens: tokens directory.
        checkpoints: directory for the metrics, empty at the start.
        config: recipe that logs every `WARM_UP` updates and has more updates than are timed.
        layout: layout of a single process, with its device.
        updates_in_a_piece: updates timed together.
        pieces: number of pieces over all passes.
    """

    tokens: Path
    checkpoints: Path
    config: Config
    layout: Layout
    updates_in_a_piece: int
    pieces: int

    @property
    def last(self) -> int:
        """Updates done after the last piece."""
        return WARM_UP + self.updates_in_a_piece * self.pieces

    @property
    def sections(self) -> Path:
        """The file of the trainer's `seconds` and `cpu_seconds` by section."""
        return self.checkpoints / "sections.json"

    def filling(self) -> Filling | None:
        """Return the fixed size of a compiled network's micro-batches; None without compilation."""
        if not self.layout.compile:
            return None
        return Filling.of(
            micro_batch_tokens=self.layout.micro_batch_tokens,
            maximum_tokens=self.config.model.maximum_tokens,
        )

    def micro_batches(self, first: int, last: int) -> Iterator[list[MicroBatch]]:
        """Yield the micro-batches of each of the updates `first` to `last` - 1."""
        dataset = open_tokens(self.tokens, "train")
        stream = UpdateStream(
            dataset,
            sequence_order(self.config, dataset.lengths),
            batch_recipe(self.config),
            micro_batch_tokens=self.layout.micro_batch_tokens,
            width=self.config.model.width,
        )
        yield from stream.updates(first, last)


class WholeTrainer(Work):
    """The trainer as in `esm1b.pretraining.pretrain`, in a thread that waits between pieces.

    On CPU its time is divided into sections, see `divide_trainer`.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._done = 0
        self._sections = Sections()
        self._until: SimpleQueue[int] = SimpleQueue()
        self._reached: SimpleQueue[BaseException | None] = SimpleQueue()
        logging.basicConfig(filename=run.checkpoints / "log.txt", level=logging.INFO)
        Thread(target=self._train_or_fail, daemon=True).start()
        self._wait()

    def first(self) -> float:
        """Warm up and return the last loss."""
        self._advance(WARM_UP)
        (line,) = read_metrics(self._run.checkpoints / "metrics.jsonl")
        loss: float = line["loss"]
        return loss

    def run(self, piece: int) -> None:
        """Do the next updates."""
        self._advance(self._run.updates_in_a_piece)

    def last(self) -> dict[str, float]:
        """Save, validate, and return what that and the whole run took."""
        self._advance(VALIDATE_AFTER - 1)
        result: dict[str, float] = {"compilations": self._compilations()}
        self._advance(2)
        seconds = [after - before for before, after in pairwise(self._arrivals)]
        usual = median(seconds[: SAVE_AFTER - 1])
        saving = seconds[SAVE_AFTER - 1 : VALIDATE_AFTER - 1]
        is_cuda = self._run.layout.device == "cuda"
        peak = torch.cuda.max_memory_allocated() if is_cuda else 0
        return result | {
            "compilations_with_validation": self._compilations(),
            "usual_seconds_of_an_update": round(usual, 4),
            "save_stall_seconds": round(saving[0] - usual, 3),
            "slowed_seconds": round(sum(saving) - usual * len(saving), 3),
            "peak_device_memory_gib": round(peak / 2**30, 2),
        }

    def _compilations(self) -> int:
        if self._run.layout.device == "cpu":  # where nothing is compiled
            return 0
        from torch._dynamo.utils import counters

        return int(counters["stats"]["unique_graphs"])

    def _advance(self, updates: int) -> None:
        self._done += updates
        self._until.put(self._done)
        self._wait()

    def _wait(self) -> None:
        error = self._reached.get()
        if error is not None:
            raise error

    def _train_or_fail(self) -> None:
        try:
            self._train()
        except BaseException as error:  # of any kind: the main thread waits for it
            self._reached.put(error)

    def _train(self) -> None:
        run, place = self._run, Place()
        device = start_processes(place, run.layout)
        if device.type == "cpu":
            divide_trainer(self._sections)
        trainer = Trainer(
            run.config,
            open_tokens(run.tokens, "train"),
            open_tokens(run.tokens, "validation"),
            run.checkpoints,
            layout=run.layout,
            options=RunOptions(),
            place=place,
            device=device,
        )
        trainer.train(StopRequest(), _Turnstile(place, self), number=1)

    def pass_by(self, update: int) -> None:
        """Note the time after `update` updates, where that is after the last piece."""
        if update > self._run.last:
            if self._run.layout.device == "cuda":
                torch.cuda.synchronize()
            self._arrivals.append(perf_counter())

    def hold(self, update: int) -> int:
        """Report that `update` updates are done, wait, and return when to be held again."""
        if self._run.layout.device == "cuda":
            torch.cuda.synchronize()
        sections = self._sections
        sections.count()
        if update == self._run.last:
            content = {"seconds": sections.seconds, "cpu_seconds": sections.cpu_seconds}
            write_json(self._run.sections, content)
        self._reached.put(None)
        until = self._until.get()
        if update == self._run.last:
            self._arrivals = [perf_counter()]
        if update == WARM_UP:
            sections.restart()
        sections.skip()
        return until


class _Turnstile(Watchdog):
    """A watchdog that holds the trainer before an update until the next piece of work."""

    def __init__(self, place: Place, trainer: WholeTrainer) -> None:
        super().__init__(place, on_parent_death=lambda: None)
        self._trainer = trainer
        self._held_at = 0

    def arrived(self, update: int, part: int = 0) -> None:
        super().arrived(update, part)
        if part == 0:
            self._trainer.pass_by(update)
        if part == 0 and update == self._held_at:
            self._held_at = self._trainer.hold(update)


class Bare(Work):
    """The encoder and torch's fused AdamW, with all batches on the device."""

    def __init__(self, run: Run) -> None:
        layout, recipe = run.layout, run.config.pretraining
        self._updates_in_a_piece = run.updates_in_a_piece
        self._recipe = recipe
        self._device = torch.device(layout.device)
        dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
        self._encoder = Encoder(run.config.model.shape(), attention=layout.attention)
        set_initial_weights(self._encoder, run.config)
        self._encoder.to(self._device, dtype).train()
        if layout.compile:
            self._encoder.compile_layers()
        self._optimizer = torch.optim.AdamW(
            self._encoder.parameters(),
            betas=recipe.adam_betas,
            eps=recipe.adam_epsilon,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        on_device = partial(_on_device, filling=run.filling(), device=self._device)
        self._updates = [
            [on_device(batch) for batch in batches] for batches in run.micro_batches(0, run.last)
        ]
        self._done = 0

    def first(self) -> float:
        """Warm up and return the last loss."""
        return float(self._train(WARM_UP))

    def run(self, piece: int) -> None:
        """Do the next updates."""
        self._train(self._updates_in_a_piece)

    def _train(self, updates: int) -> Tensor:
        for _ in range(updates):
            loss = self._update(self._updates[self._done])
            self._done += 1
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return loss

    def _update(self, batches: Sequence[PackedBatch]) -> Tensor:
        masked = sum(len(batch.targets) for batch in batches)
        loss = torch.zeros((), device=self._device)
        for batch in batches:
            logits = self._encoder(batch.packed, batch.masked_positions).float()
            part = functional.cross_entropy(logits, batch.targets, reduction="sum") / masked
            part.backward()  # type: ignore[no-untyped-call]  # torch's, untyped
            loss += part.detach()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._recipe, self._done + 1)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss


def _on_device(batch: MicroBatch, filling: Filling | None, device: torch.device) -> PackedBatch:
    tokens = torch.from_numpy(batch.tokens).to(device)
    packed = PackedTokens.from_tokens(tokens, batch.lengths.tolist())
    if filling is not None:
        packed = packed.filled(
            capacity=filling.capacity, sequences=filling.sequences, longest=filling.longest
        )
    return PackedBatch(
        packed=packed,
        masked_positions=torch.from_numpy(batch.masked_positions).to(device),
        targets=torch.from_numpy(batch.targets).to(device),
    )
