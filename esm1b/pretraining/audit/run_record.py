"""What a run recorded beside its checkpoints: its data, its order and how far it came."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from esm1b.errors import UserError
from esm1b.pretraining.checkpoints.files import StoredState, read_state, saved_checkpoints
from esm1b.pretraining.checkpoints.run_identity import recorded_fingerprint
from esm1b.pretraining.metrics.metrics_file import read_metrics
from esm1b.pretraining.skipped_updates import SkippedUpdate

_METRICS: Final = "metrics.jsonl"

Value = TypeVar("Value", int, str)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The records of a run.

    Attributes:
        tokens_fingerprint: of the tokens that it trains on.
        seed: of the order.
        crop_residues: of a sequence at most.
        tokens_per_update: B.
        updates: of the newest checkpoint.
        skipped: up to there.
        logged: of `metrics.jsonl`, (updates, sequences seen up to there).
    """

    tokens_fingerprint: str
    seed: int
    crop_residues: int
    tokens_per_update: int
    updates: int
    skipped: Sequence[SkippedUpdate]
    logged: Sequence[tuple[int, int]]


def read_run_record(directory: Path) -> RunRecord:
    """Return what the run recorded in the directory of its checkpoints.

    Raises:
        UserError: there is no run, or no checkpoint, or what it says is no record of a run.
    """
    recorded = recorded_fingerprint(directory)
    if recorded is None:
        raise UserError(f"{directory}: no run.json; expected the directory of a run's checkpoints")
    state = _newest_state(directory)
    for record in state.skipped:
        if not 1 <= record.update <= state.updates:
            raise UserError(
                f"{directory}: update {record.update} is recorded as skipped by the checkpoint of "
                f"update {state.updates}; expected 1 to {state.updates}"
            )
    return RunRecord(
        tokens_fingerprint=_value(recorded, "tokens", str, directory),
        seed=_value(recorded, "seed", int, directory),
        crop_residues=_value(recorded, "pretraining.crop_residues", int, directory),
        tokens_per_update=_value(recorded, "pretraining.tokens_per_update", int, directory),
        updates=state.updates,
        skipped=state.skipped,
        logged=_logged(directory / _METRICS),
    )


def _newest_state(directory: Path) -> StoredState:
    """Return the state of the newest checkpoint whose state is whole."""
    problem = "no checkpoint"
    for path in reversed(saved_checkpoints(directory).values()):
        try:
            return read_state(path)
        except UserError as error:  # pretrain passes it over too
            problem = str(error)
    raise UserError(f"{directory}: {problem}; expected a run that has saved a checkpoint")


def _value(recorded: Mapping[str, Any], key: str, kind: type[Value], directory: Path) -> Value:
    value = recorded.get(key)
    if not isinstance(value, kind):
        raise UserError(
            f"{directory / 'run.json'}: {key}: {value!r}; expected {kind.__name__}, as pretrain "
            "writes it"
        )
    return value


def _logged(path: Path) -> list[tuple[int, int]]:
    if not path.is_file():
        return []
    return [
        (line["update"], line["sequences_seen"])
        for line in read_metrics(path)
        if isinstance(line.get("sequences_seen"), int)
    ]
