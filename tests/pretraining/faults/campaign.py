"""Rounds of faults over trials, and what came of them."""

import json
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from esm1b.config import load_config
from esm1b.model.encoder import Encoder
from esm1b.pretraining.checkpoints.files import checkpoint_path, read_state
from esm1b.pretraining.metrics.metrics_file import read_metrics
from tests.pretraining.faults.kinds import KINDS, needs_others, require_stop_for_good
from tests.pretraining.faults.trial import INTERVAL, KEPT, UPDATES, Expected, Subject, Trial
from tests.pretraining.fork_server import ForkServer

__all__ = ["Round", "prepare", "run_rounds"]

_MOST_FAULTS: Final = 4
_CONFIGURATION: Final[dict[str, Any]] = {
    "run": "faults",
    "seed": 7,
    "model": {"layers": 2, "width": 24, "heads": 3, "feed_forward": 40, "maximum_tokens": 102},
    "pretraining": {
        "updates": UPDATES,
        "tokens_per_update": 1500,
        "crop_residues": 100,
        "learning_rate": 0.004,
        "warmup_updates": 10,
        "log_interval": 1,
        "validation_interval": 20,
        "validation_sequences": 20,
        "checkpoint_interval": INTERVAL,
        "checkpoints_kept": KEPT,
        "gradient_clipping": 1.0,
    },
}


@dataclass(frozen=True, kw_only=True)
class Round:
    """A fault that struck.

    Attributes:
        kind: of fault.
        outcome: in words.
        trial: counted from 1.
        first: the update that the start went on from.
        seconds: that the round took.
    """

    kind: str
    outcome: str
    trial: int
    first: int
    seconds: float


def prepare(
    server: ForkServer, folder: Path, tokens: Path, *, processes: int, zero_stage: int
) -> tuple[Subject, Expected]:
    """Let the run go undisturbed once."""
    configuration = folder / "config.json"
    configuration.write_text(json.dumps(_CONFIGURATION))
    encoder = Encoder(load_config(configuration).model.shape())
    subject = Subject(
        server=server,
        configuration=configuration,
        tokens=tokens,
        processes=processes,
        zero_stage=zero_stage,
        shapes={name: tuple(p.shape) for name, p in encoder.named_parameters()},
    )
    return subject, _undisturbed(subject, folder / "undisturbed")


def run_rounds(
    subject: Subject,
    expected: Expected,
    folder: Path,
    *,
    rounds: int,
    seed: int,
    kinds: Sequence[str] = tuple(KINDS),
    report: Callable[[Round], None] = lambda _: None,
) -> list[Round]:
    """Strike so many times and return what came of it.

    Raises:
        Deviation: the run did not do what it promises; the folder of the trial stays.
    """
    chance = random.Random(seed)
    possible = [kind for kind in kinds if subject.processes > 1 or not needs_others(kind)]
    deck: list[str] = []
    done: list[Round] = []
    number = 0
    while len(done) < rounds:
        number += 1
        trial = Trial(subject, folder / f"trial-{number:03d}", expected)
        for _ in range(min(chance.randint(1, _MOST_FAULTS), rounds - len(done))):
            if not deck:
                deck = chance.sample(possible, len(possible))
            if trial.stops_for_good():
                require_stop_for_good(trial)
            kind, first, began = deck.pop(), trial.newest(), time.monotonic()
            outcome = KINDS[kind](trial, chance)
            if outcome is None:
                deck.append(kind)
                break
            seconds = time.monotonic() - began
            done.append(
                Round(kind=kind, outcome=outcome, trial=number, first=first, seconds=seconds)
            )
            report(done[-1])
        _finish(trial)
        shutil.rmtree(trial.folder)
    return done


def _finish(trial: Trial) -> None:
    """Leave a trial alone until its run has come to the end, and check what it came to."""
    if trial.stops_for_good():
        require_stop_for_good(trial)
    start = trial.start()
    start.end()
    start.require([0] * trial.subject.processes)
    start.check()
    trial.check_end()


def _undisturbed(subject: Subject, folder: Path) -> Expected:
    trial = Trial(subject, folder)
    start = trial.start()
    start.comes_to(lambda: start.updates() is not None)
    began = time.monotonic()
    start.comes_to(lambda: start.updates() == UPDATES)
    seconds = time.monotonic() - began
    start.end()
    start.require([0] * subject.processes)
    lines = read_metrics(trial.checkpoints / "metrics.jsonl")
    return Expected(
        weights=(trial.model / "model.safetensors").read_bytes(),
        losses=[line["loss"] for line in lines if "loss" in line],
        files=read_state(checkpoint_path(trial.checkpoints, UPDATES)).files,
        update_seconds=seconds / (UPDATES - 1),
    )
