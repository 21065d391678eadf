"""One run to a checkpoint directory: what determines it is recorded there, and a lock held."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from esm1b.batches.masking import MASKED_SHARE
from esm1b.config import Config
from esm1b.errors import UserError
from esm1b.files import read_json, write_json
from esm1b.outputs import own_contents
from esm1b.pretraining.attempt_log import ATTEMPTS_FILE
from esm1b.pretraining.metrics.metrics_file import METRICS_FILE

RUN_FILE: Final = "run.json"

# What may change between attempts at one run, besides options and layout.
_NOT_IN_FINGERPRINT: Final = {
    *("updates", "log_interval", "validation_interval", "validation_sequences"),
    *("checkpoint_interval", "checkpoints_kept", "milestone_interval", "stop_at_loss_spike"),
}
# Without a key that came later, a run is what it has always been.
_ADDED_LATER: Final = {
    "model.positions": "learned",
    "pretraining.learning_rate_decay": "inverse-square-root",
}
# Whatever a run leaves: its measurements, and what it trained.
_TRACES: Final = (ATTEMPTS_FILE, METRICS_FILE, "milestones", "*update-*")


def run_fingerprint(config: Config, tokens_fingerprint: str) -> dict[str, Any]:
    """Return, as flat keys, what determines the updates of a run."""
    recipe = config.pretraining.model_dump(mode="json", exclude=_NOT_IN_FINGERPRINT)
    if config.pretraining.learning_rate_decay == "linear":
        recipe["updates"] = config.pretraining.updates  # the rate of every update follows from it
    fingerprint = {
        "tokens": tokens_fingerprint,
        "seed": config.seed,
        "masked_share": MASKED_SHARE,
        **{f"model.{key}": value for key, value in config.model.model_dump(mode="json").items()},
        **{f"pretraining.{key}": value for key, value in recipe.items()},
    }
    return {key: value for key, value in fingerprint.items() if _ADDED_LATER.get(key, ...) != value}


def check_fingerprint(directory: Path, fingerprint: Mapping[str, Any]) -> None:
    """Record what determines the run in its checkpoint directory, or compare once it has begun.

    Raises:
        UserError: naming the keys that differ, with both values.
    """
    recorded = recorded_fingerprint(directory)
    has_begun = any(path for trace in _TRACES for path in directory.glob(trace))
    if recorded is not None and has_begun:
        check_same_run(directory, recorded, fingerprint)
    elif recorded != fingerprint:
        write_json(directory / RUN_FILE, fingerprint)


def recorded_fingerprint(directory: Path) -> dict[str, Any] | None:
    """Return what `check_fingerprint` recorded; None if there is no record.

    Raises:
        UserError: the record is damaged.
    """
    path = directory / RUN_FILE
    if not path.exists():
        return None
    recorded = read_json(path)
    if not isinstance(recorded, dict):
        raise UserError(f"{path}: {type(recorded).__name__}; expected an object of keys")
    return recorded


def check_same_run(
    path: Path | str, recorded: Mapping[str, Any], fingerprint: Mapping[str, Any]
) -> None:
    """Check that what is at `path` belongs to the run of `fingerprint`.

    Raises:
        UserError: naming the keys that differ, with both values.
    """
    differences = [
        f"{key} was {recorded.get(key)!r} and is {fingerprint.get(key)!r}"
        for key in sorted(recorded.keys() | fingerprint.keys())
        if recorded.get(key) != fingerprint.get(key)
    ]
    if differences:
        raise UserError(
            f"{path}: holds checkpoints of another run: {'; '.join(differences)}; "
            "expected the same data and recipe, or another directory"
        )


@contextmanager
def directory_lock(directory: Path, *, patience_seconds: float = 60) -> Iterator[None]:
    """Keep a second run out of `directory`; the file `lock` stays and names the last holder.

    The wait is for a run that still saves after its launcher was killed.

    Raises:
        UserError: another process still holds it after `patience_seconds`.
    """
    with own_contents(
        directory,
        lock="lock",
        doing="is training here",
        patience_seconds=patience_seconds,
        keep=True,
    ):
        yield
