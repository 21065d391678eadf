"""The run in every process: joining the others, one attempt, and the model directory."""

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed

from esm1b.batches.masking import MASKED_SHARE
from esm1b.config import Config
from esm1b.corpus.manifest import TOKENS_FORMAT, read_manifest
from esm1b.corpus.tokens.dataset import TokenDataset, open_tokens
from esm1b.corpus.verify import verify
from esm1b.errors import RunFailure, UserError, one_line, paths_of_the_user
from esm1b.files import check_replaceable, read_json
from esm1b.pretraining.attempt_log import AttemptLog
from esm1b.pretraining.checkpoints.directory_lock import directory_lock
from esm1b.pretraining.checkpoints.retention import check_free_space
from esm1b.pretraining.checkpoints.run_identity import check_fingerprint
from esm1b.pretraining.distributed.collectives import gathered, on_first
from esm1b.pretraining.distributed.place import Place, place_from_environment, with_known_address
from esm1b.pretraining.distributed.watchdog import Watchdog
from esm1b.pretraining.engine.deepspeed_settings import check_layout
from esm1b.pretraining.metrics.monitor import name_log_lines
from esm1b.pretraining.metrics.weights_and_biases import check_installed
from esm1b.pretraining.options import Layout, RunOptions
from esm1b.pretraining.planning.memory import TrainingMemory
from esm1b.pretraining.start_processes import start_processes
from esm1b.pretraining.trainer import Trainer
from esm1b.stopping import StopRequest, TimeBudget

_log = logging.getLogger(__name__)

# What may change between attempts of one run, besides hardware.
_NOT_IN_FINGERPRINT: Final = {
    "updates",
    "log_interval",
    "validation_interval",
    "validation_sequences",
    "checkpoint_interval",
    "checkpoints_kept",
    "milestone_interval",
    "stop_at_loss_spike",
}


def pretrain(
    config: Config,
    tokens: Path,
    checkpoints: Path,
    output: Path,
    layout: Layout,
    options: RunOptions | None = None,
) -> None:
    """Train the model of `config` and write it to `output`; go on from the newest checkpoint.

    Runs in every process of the launcher.

    Raises:
        UserError: the data or the recipe is not that of the checkpoints, the directory is in use
            by another run, or it has no room for the checkpoints.
        Stopped: a signal, the time budget or the launcher's death asked to stop; all is saved.
        RunFailure: earlier attempts failed where this one would begin, or the run cannot go on.
    """
    options = RunOptions() if options is None else options
    stop = StopRequest(TimeBudget(options.stop_after_seconds))
    place = with_known_address(place_from_environment(os.environ))
    attempts: AttemptLog | None = None

    def note_failure(message: str) -> None:
        if attempts is not None:
            attempts.failed(message)

    watchdog = Watchdog(
        place, on_parent_death=lambda: stop.ask("its launcher died"), on_failure=note_failure
    )
    name_log_lines(place)
    check_layout(config.pretraining.precision, layout)
    train = open_tokens(tokens, "train", preload=options.preload)
    held_out = open_tokens(tokens, "validation", preload=options.preload)
    with ExitStack() as held:
        held.enter_context(stop)
        device = start_processes(place, layout, is_stopped=stop.is_made)
        held.callback(torch.distributed.destroy_process_group)
        locked = held.enter_context(ExitStack())
        held.enter_context(_memory_told(place))
        held.enter_context(watchdog.watching())

        @paths_of_the_user()
        def start() -> None:
            check_replaceable(output, "model", [tokens, checkpoints])
            if checkpoints.is_file():
                raise UserError(f"{checkpoints}: is a file; expected a directory")
            checkpoints.mkdir(parents=True, exist_ok=True)
            if options.wandb_project is not None:
                check_installed(options.wandb_project)
            if options.verify:
                verify(tokens, read_manifest(tokens, TOKENS_FORMAT))
            locked.enter_context(directory_lock(checkpoints))
            check_fingerprint(checkpoints, run_fingerprint(config, train))
            check_free_space(
                checkpoints,
                parameters=config.model.shape().parameters(),
                checkpoints=config.pretraining.checkpoints_kept + 1,
                every=config.pretraining.milestone_interval,
                updates=config.pretraining.updates,
            )

        on_first(start, place)
        description = _describe_layout(layout, options, place)
        if options.automatic_micro_batch:
            layout = _with_automatic_micro_batch(config, layout, place, device)
        attempt = Trainer(
            config,
            train,
            held_out,
            checkpoints,
            layout=layout,
            options=options,
            place=place,
            device=device,
        )
        attempts = AttemptLog(
            checkpoints,
            update=attempt.updates,
            layout=description,
            active=place.rank == 0,
        )
        on_first(attempts.check, place)
        with attempts:
            attempt.train(stop, watchdog, number=attempts.number)
        attempt.export(output)


@contextmanager
def _memory_told(place: Place) -> Iterator[None]:
    """Say in one line that the memory of a GPU does not do, and what takes less.

    It happens to one process; the watchdog, within, tells the others what torch said.

    Raises:
        RunFailure: in place of torch's error.
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
            _log.error(message)  # of a failure that all share, rank 0 alone tells
        raise RunFailure(message) from error


def _describe_layout(layout: Layout, options: RunOptions, place: Place) -> dict[str, Any]:
    """Return what tells attempts apart that would fail alike, to be written as JSON."""
    values = asdict(layout) | {"processes": place.processes}
    if options.automatic_micro_batch:
        values["micro_batch_tokens"] = "auto"
    file = layout.deepspeed_file
    return values | {"deepspeed_file": None if file is None else read_json(file)}


def run_fingerprint(config: Config, dataset: TokenDataset) -> dict[str, Any]:
    """Return, as flat keys, what determines the updates of a run."""
    recipe = config.pretraining.model_dump(mode="json", exclude=_NOT_IN_FINGERPRINT)
    return {
        "tokens": dataset.fingerprint,
        "seed": config.seed,
        "masked_share": MASKED_SHARE,
        **{f"model.{key}": value for key, value in config.model.model_dump(mode="json").items()},
        **{f"pretraining.{key}": value for key, value in recipe.items()},
    }


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
