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
from esm1b.corpus.manifest import SPLITS, TOKENS_FORMAT, read_manifest, verify
from esm1b.corpus.tokens.dataset import TokenDataset, open_tokens
from esm1b.errors import RunFailure, one_line, paths_of_the_user
from esm1b.files import atomic_file, read_json
from esm1b.outputs import own_contents, own_output
from esm1b.pretraining.attempt_log import ATTEMPTS_FILE, AttemptLog
from esm1b.pretraining.checkpoints.files import STATE_FILE, saved_checkpoints
from esm1b.pretraining.checkpoints.mirror import mirrored
from esm1b.pretraining.checkpoints.run_identity import (
    RUN_FILE,
    check_fingerprint,
    directory_lock,
    run_fingerprint,
)
from esm1b.pretraining.distributed.collectives import everywhere, gathered, on_first
from esm1b.pretraining.distributed.place import Place, place_from_environment, with_known_address
from esm1b.pretraining.distributed.watchdog import Watchdog
from esm1b.pretraining.metrics.metrics_file import METRICS_FILE
from esm1b.pretraining.metrics.monitor import name_log_lines
from esm1b.pretraining.metrics.weights_and_biases import check_installed
from esm1b.pretraining.options import Layout, RunOptions
from esm1b.pretraining.planning.memory import TrainingMemory
from esm1b.pretraining.preflight import preflight
from esm1b.pretraining.run_log import LOG_FILE, log_to
from esm1b.pretraining.start_processes import connect, join
from esm1b.pretraining.trainer import Trainer
from esm1b.scheduler import seconds_left
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
    place = with_known_address(place_from_environment(os.environ))
    stop = StopRequest(options.stop_after_seconds, job_seconds=_job_seconds(options, place))
    log = AttemptLog(directory, rank=place.rank)
    watchdog = Watchdog(
        place,
        limit_seconds=options.hang_limit_seconds,
        on_parent_death=lambda: stop.ask("its launcher died"),
        on_verdict=log.judged,
    )
    name_log_lines(place)
    limit = options.start_limit_seconds
    with ExitStack() as held:
        held.enter_context(stop.from_signals())
        store = join(place, layout, is_stopped=stop.is_made, limit_seconds=limit)
        train, held_out = preflight(
            config,
            tokens,
            directory,
            output,
            layout,
            place,
            store,
            limit_seconds=limit,
            has_mirror=options.mirror is not None,
        )
        device = connect(
            place,
            layout,
            store,
            traces=directory,
            is_stopped=stop.is_made,
            limit_seconds=limit,
        )
        held.callback(torch.distributed.destroy_process_group)
        kept = held.enter_context(ExitStack())
        held.enter_context(_out_of_memory_in_a_line(place))
        held.callback(log.settle)
        held.enter_context(watchdog.watching())

        on_first(partial(_prepare, config, train, directory, output, options, kept), place)
        everywhere(partial(_verify, tokens, options, place), place)
        if options.preload:
            train, held_out = _preloaded(tokens, place)
        fingerprint = run_fingerprint(config, train.fingerprint)
        held.enter_context(
            mirrored(options.mirror, directory, config.pretraining, fingerprint, place)
        )
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
        number = on_first(lambda: log.next_attempt(update=update, layout=description), place)
        nodes = list(dict.fromkeys(gathered(platform.node(), place)))
        updates = config.pretraining.updates
        with log.attempt(number, update=update, updates=updates, layout=description, nodes=nodes):
            trainer.train(stop, watchdog, number=number)
        trainer.export(output)
        if options.records is not None:
            on_first(partial(_copy_records, directory, options.records), place)


def _job_seconds(options: RunOptions, place: Place) -> float | None:
    """Return in the first process when the scheduler ends the job, if the user gave no limit."""
    if place.rank > 0 or options.stop_after_seconds is not None:
        return None
    return seconds_left(os.environ)


@paths_of_the_user()
def _prepare(
    config: Config,
    train: TokenDataset,
    directory: Path,
    output: Path,
    options: RunOptions,
    kept: ExitStack,
) -> None:
    """Check what the first process alone can tell, lock all that it writes and log to it."""
    if options.records is not None:
        options.records.mkdir(parents=True, exist_ok=True)
    if options.wandb_project is not None:
        check_installed(options.wandb_project)
    kept.enter_context(directory_lock(directory))
    # the wait is for a run that still saves after its launcher was killed
    kept.enter_context(own_output(output, patience_seconds=60))
    if (records := options.records) is not None:
        owned = own_contents(records, lock=".lock", doing="is writing it", patience_seconds=60)
        kept.enter_context(owned)
    check_fingerprint(directory, run_fingerprint(config, train.fingerprint))
    kept.enter_context(log_to(directory / LOG_FILE))


def _verify(tokens: Path, options: RunOptions, place: Place) -> None:
    """Compare the tokens with their digests, if asked to, once on every node."""
    if options.verify and place.local_rank == 0:
        verify(tokens, read_manifest(tokens, TOKENS_FORMAT))


def _preloaded(tokens: Path, place: Place) -> list[TokenDataset]:
    """Return the training and validation sequences in memory. Collective."""
    opened: list[TokenDataset] = []

    def read() -> None:
        opened.extend(open_tokens(tokens, split, preload=True) for split in SPLITS)

    everywhere(read, place)
    return opened


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
