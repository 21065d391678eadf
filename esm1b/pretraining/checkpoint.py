"""Checkpoints that are whole or not there, in safetensors and JSON.

`CHECKPOINTS/update-00000200/` holds `weights`, `first_moments` and `second_moments`
(`.safetensors`, float32, by parameter name) and `state.json` with the digest of each. It is
written under another name, synced and renamed; a checkpoint that fails its digests is passed over
for the one before.
"""

import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from esm1b.errors import UserError
from esm1b.files import atomic_directory, read_json, sha256_file, write_json

__all__ = ["Checkpoint", "check_fingerprint", "load_newest", "remove_newer", "remove_old", "save"]

_PARTS: Final = ("weights", "first_moments", "second_moments")
_STATE: Final = "state.json"
_NAME: Final = re.compile(r"update-(\d{8})")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint in memory: the updates done, and float32 tensors by part and name."""

    updates: int
    tensors: dict[str, dict[str, Tensor]]


def save(directory: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint under `directory` and return its path."""
    path = directory / f"update-{checkpoint.updates:08d}"
    with atomic_directory(path) as temporary:
        digests = {}
        for part in _PARTS:
            file = temporary / f"{part}.safetensors"
            save_file(checkpoint.tensors[part], file)
            digests[file.name] = sha256_file(file)
        write_json(temporary / _STATE, {"updates": checkpoint.updates, "sha256": digests})
    return path


def load_newest(directory: Path) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, or None where there is none.

    Raises:
        UserError: there are checkpoints and none is whole.
    """
    paths = _checkpoints(directory)
    for path in reversed(paths):
        try:
            return _load(path)
        except (UserError, OSError, SafetensorError, KeyError, TypeError) as error:
            _log.warning("%s: damaged, so the checkpoint before it is tried: %s", path, error)
    if paths:
        raise UserError(
            f"{directory}: none of its {len(paths)} checkpoints is whole; expected one, or none at "
            "all to start from the beginning"
        )
    return None


def remove_newer(directory: Path, *, than: int) -> None:
    """Remove the damaged checkpoints that `load_newest` passed over: those after update `than`."""
    for path in _checkpoints(directory):
        if int(path.name.removeprefix("update-")) > than:
            shutil.rmtree(path)


def remove_old(directory: Path, *, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and what an interrupted save left."""
    for path in _checkpoints(directory)[:-keep]:
        shutil.rmtree(path)
    for path in directory.glob(".update-*"):
        shutil.rmtree(path)


def check_fingerprint(directory: Path, fingerprint: Mapping[str, Any]) -> None:
    """Record what determines the run at its first start; refuse anything else later.

    Raises:
        UserError: naming the keys that differ, with both values.
    """
    path = directory / "run.json"
    if not path.exists():
        write_json(path, fingerprint)
        return
    recorded = read_json(path)
    differences = [
        f"{key} was {recorded.get(key)!r} and is {fingerprint.get(key)!r}"
        for key in sorted(recorded.keys() | fingerprint.keys())
        if recorded.get(key) != fingerprint.get(key)
    ]
    if differences:
        raise UserError(
            f"{directory}: holds checkpoints of another run: {'; '.join(differences)}; "
            "expected the same data and recipe, or another directory"
        )


def _checkpoints(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("update-*") if _NAME.fullmatch(path.name))


def _load(path: Path) -> Checkpoint:
    state = read_json(path / _STATE)
    tensors = {}
    for part in _PARTS:
        file = path / f"{part}.safetensors"
        if sha256_file(file) != state["sha256"][file.name]:
            raise UserError(f"{file}: its SHA-256 is not the one in {_STATE}")
        tensors[part] = load_file(file)
    return Checkpoint(updates=state["updates"], tensors=tensors)
