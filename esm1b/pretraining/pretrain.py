"""A run in every process: start together, train for one attempt, write the model directory."""

import logging
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from esm1b.config import Config
from esm1b.corpus.manifest import TOKENS_FORMAT, read_manifest, verify
from esm1b.corpus.tokens.dataset import TokenDataset, open_tokens
from esm1b.errors import RunFailure, UserError, one_line, paths_of_the_user
from esm1b.files import atomic_file, read_json
from esm1b.outputs import check_replaceable, check_writable, own_contents, own_output
from esm1b.pretraining.attempt_log import ATTEMPTS_FILE, AttemptLog
from esm1b.pretraining.checkpoints.files import STATE_FILE, saved_checkpoints
from esm1b.pretraining.checkpoints.run_identity import (
    RUN_FILE,
    check_fingerprint,
    directory_lock,
    run_fingerprint,
)
from esm1b.pretraining.checkpoints.saver import check_free_space
from esm1b.pretraining.distributed.collectives import gathered, on_first
from esm1b.pretraining.distributed.place import Place, place_from_environment, with_known_address
from esm1b.pretraining.distributed.watchdog import Watchdog
from esm1b.pretraining.engine.deepspeed_settings import check_layout
from esm1b.pretraining.metrics.metrics_file import METRICS_FILE
from esm1b.pretraining.metrics.monitor import name_log_lines
from esm1b.pretraining.metrics.weights_and_biases import check_installed
from esm1b.pretraining.options import Layout, RunOptions
from esm1b.pretraining.planning.memory import TrainingMemory
from esm1b.pretraining.start_processes import start_processes
from esm1b.pretraining.trainer import Trainer
from esm1b.stopping import StopRequest

_log = logging.getLogger(__name__)


def pretrain(
    config: Config,
    tokens: Path,
    directory: Path,
    output: Path,
    layout: Layout,
    options: RunOptions,
) -> None:
    """Train a model from the newest checkpoint in `directory` and write it to `output`.

    Runs in every process of the launcher.

    Raises:
        UserError: the checkpoints belong to other data or another recipe, or the checkpoint
            directory is in use by another run or too full.
        Stopped: a signal, the time budget or the launcher's death asked to stop; all is saved.
        RunFailure: earlier attempts failed where this one would begin, or this one failed.
    """
    stop = StopRequest(options.stop_after_seconds)
    place = with_known_address(place_from_environment(os.environ))
    log = AttemptLog(directory, active=place.rank == 0)
    watchdog = Watchdog(
        place, on_parent_death=lambda: stop.ask("its launcher died"), on_failure=log.failed
    )
    name_log_lines(place)
    check_layout(config.pretraining.precision, layout)
    train = open_tokens(tokens, "train", preload=options.preload)
    held_out = open_tokens(tokens, "validation", preload=options.preload)
    with ExitStack() as held:
        held.enter_context(stop.from_signals())
        device = start_processes(place, layout, is_stopped=stop.is_made)
        held.callback(torch.distributed.destroy_process_group)
        locked = held.enter_context(ExitStack())
        held.enter_context(_out_of_memory_in_a_line(place))
        held.enter_context(watchdog.watching())

        prepare = partial(_prepare, config, train, tokens, directory, output, options, locked)
        on_first(prepare, place)
        description = _describe_layout(layout, options, place)
        if options.automatic_micro_batch:
            layout = _with_automatic_micro_batch(config, layout, place, device)
        trainer = Trainer(
            config,
            train,
            held_out,
            directory,
            layout=layout,
            options=options,
            place=place,
            device=device,
        )
        update = trainer.updates
        on_first(lambda: log.check_progress(update=update, layout=description), place)
        updates = config.pretraining.updates
        with log.attempt(update=update, updates=updates, layout=description) as number:
            trainer.train(stop, watchdog, number=number)
        trainer.export(output)
        if options.records is not None:
            on_first(partial(_copy_records, directory, options.records), place)


@paths_of_the_user()
def _prepare(
    config: Config,
    train: TokenDataset,
    tokens: Path,
    directory: Path,
    output: Path,
    options: RunOptions,
    locked: ExitStack,
) -> None:
    """Check everything that can be wrong before training, and lock all that it writes."""
    check_replaceable(output, "model", [tokens, directory])
    check_writable(output)
    if directory.is_file():
        raise UserError(f"{directory}: is a file; expected a directory")
    directory.mkdir(parents=True, exist_ok=True)
    if options.records is not None:
        options.records.mkdir(parents=True, exist_ok=True)
    if options.wandb_project is not None:
        check_installed(options.wandb_project)
    if options.verify:
        verify(tokens, read_manifest(tokens, TOKENS_FORMAT))
    locked.enter_context(directory_lock(directory))
    # the wait is for a run that still saves after its launcher was killed
    locked.enter_context(own_output(output, patience_seconds=60))
    if (records := options.records) is not None:
        owned = own_contents(records, lock=".lock", doing="is writing it", patience_seconds=60)
        locked.enter_context(owned)
    check_fingerprint(directory, run_fingerprint(config, train.fingerprint))
    parameters = config.model.shape().parameters()
    check_free_space(directory, config.pretraining, parameters=parameters)


@paths_of_the_user()
def _copy_records(directory: Path, records: Path) -> None:
    """Copy what a finished run recorded: the outputs of a workflow, unlike its checkpoints."""
    newest = list(saved_checkpoints(directory).values())[-1]
    sources = [directory / name for name in (METRICS_FILE, ATTEMPTS_FILE, RUN_FILE)]
    for source in (*sources, newest / STATE_FILE):
        with atomic_file(records / source.name) as temporary:
            shutil.copyfile(source, temporary)


@contextmanager
def _out_of_memory_in_a_line(place: Place) -> Iterator[None]:
    """Say in one line that the memory of a GPU is too small, and what takes less.

    It happens to one process; the watchdog, within, tells the others what torch said.

    Raises:
        RunFailure: instead of torch's error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        message = (
            f"rank {place.rank} on {platform.node()}: {one_line(error)} Expected fewer "
            "--micro-batch-tokens, --activation-checkpointing, or a higher --zero-stage on "
            "several GPUs"
        )
        if place.rank > 0:
            _log.error(message)  # only rank 0 reports failures that all processes share
        raise RunFailure(message) from error


def _describe_layout(layout: Layout, options: RunOptions, place: Place) -> dict[str, Any]:
    """Return, for JSON, what tells attempts apart that would otherwise fail alike."""
    values = asdict(layout) | {"processes": place.processes}
    if options.automatic_micro_batch:
        values["micro_batch_tokens"] = "auto"
    file = layout.deepspeed_file
    return values | {"deepspeed_file": None if file is None else read_json(file)}


def _with_automatic_micro_batch(
    config: Config, layout: Layout, place: Place, device: torch.device
) -> Layout:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    least = min((bytes_ for bytes_ in gathered(free, place) if bytes_ is not None), default=None)
    memory = TrainingMemory(
        shape=config.model.shape(),
        precision=config.pretraining.precision,
        processes=place.processes,
        activation_checkpointing=layout.activation_checkpointing,
    )
    tokens = memory.automatic_micro_batch(
        layout.zero_stage,
        tokens_per_update=config.pretraining.tokens_per_update,
        free_bytes=least,
    )
    _log.info("micro-batches of %d tokens", tokens)
    return replace(layout, micro_batch_tokens=tokens)
