"""What determines a run, recorded beside its checkpoints: no surprise mixtures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esm1b.errors import UserError
from esm1b.files import read_json, write_json
from esm1b.pretraining.metrics.metrics_file import METRICS_FILE

_RECORD = "run.json"
_LEFT = ("attempts.jsonl", METRICS_FILE, "milestones")


def check_fingerprint(directory: Path, fingerprint: Mapping[str, Any]) -> None:
    """Record what determines the run; refuse anything else once it has begun.

    Raises:
        UserError: naming the keys that differ, with both values.
    """
    recorded = recorded_fingerprint(directory)
    if recorded is not None and _has_begun(directory):
        check_same_run(directory, recorded, fingerprint)
    elif recorded != fingerprint:
        write_json(directory / _RECORD, fingerprint)


def _has_begun(directory: Path) -> bool:
    """Return whether anything is left of a run: what it trained, or what was measured of it."""
    return any((directory / name).exists() for name in _LEFT) or any(directory.glob("*update-*"))


def recorded_fingerprint(directory: Path) -> dict[str, Any] | None:
    """Return what `check_fingerprint` recorded; None if nothing is.

    Raises:
        UserError: the record is damaged.
    """
    path = directory / _RECORD
    if not path.exists():
        return None
    recorded = read_json(path)
    if not isinstance(recorded, dict):
        raise UserError(f"{path}: {type(recorded).__name__}; expected an object of keys")
    return recorded


def check_same_run(path: Path, recorded: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> None:
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
