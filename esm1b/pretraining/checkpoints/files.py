"""A checkpoint on disk: float32 tensors in safetensors, described by one JSON file.

`update-00000200/` in the checkpoint directory holds, for each process that saved,
`weights-00001-of-00004.safetensors`, `first_moments-...` and `second_moments-...` (tensors by
parameter name), and `state.json` with the digest of each file and of itself.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from esm1b.errors import UserError
from esm1b.files import fsync, read_json, sha256_file, write_json
from esm1b.pretraining.skipped_updates import SkippedUpdate

STATE_FILE: Final = "state.json"
MARK_PREFIX: Final = ".preflight-"
"""Beginning of the name of an entry by which processes know that they see the same directory."""

_NAME: Final = re.compile(r"update-(\d{8,})")


class StoredFile(BaseModel, extra="forbid", frozen=True, strict=True):
    """A file of tensors: the part that it belongs to, its parameters, bytes and digest."""

    part: str
    names: list[str]
    size: int
    sha256: str


class StoredState(BaseModel, extra="forbid", frozen=True, strict=True):
    """The content of `state.json`: `updates` counts skipped ones too, `run` is `run.json`."""

    updates: int
    adam_steps: int
    scaler: dict[str, float] | None
    skipped: list[SkippedUpdate]
    run: dict[str, Any] | None
    versions: dict[str, str]
    files: dict[str, StoredFile]


def checkpoint_path(directory: Path, updates: int) -> Path:
    """Return the path of the checkpoint after `updates` updates."""
    return directory / f"update-{updates:08d}"


def saved_checkpoints(directory: Path) -> dict[int, Path]:
    """Return the checkpoints in `directory` by update, oldest first."""
    found = {updates_of(path.name): path for path in directory.glob("update-*")}
    return {updates: found[updates] for updates in sorted(u for u in found if u is not None)}


def updates_of(name: str) -> int | None:
    """Return the number of updates in the name of a checkpoint; None for any other name."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def remove(path: Path) -> None:
    """Remove a checkpoint; interrupted, it leaves no damaged one behind."""
    hidden = path.with_name(f".{path.name}.removed")
    shutil.rmtree(hidden, ignore_errors=True)
    os.rename(path, hidden)
    shutil.rmtree(hidden)


def remove_leftovers(directory: Path) -> None:
    """Remove what interrupted starts, saves and removals, of checkpoints and milestones, left.

    Whatever cannot be removed, such as a file that NFS keeps while it is read, waits for next time.
    """
    for pattern in (".update-*", "milestones/.update-*", f"{MARK_PREFIX}*"):
        for path in directory.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def set_newer_aside(directory: Path, *, than: int) -> None:
    """Rename the damaged checkpoints that `load_newest` passed over: those after update `than`.

    They are not removed: they may become readable again, which only their owner can tell.
    """
    for updates, path in saved_checkpoints(directory).items():
        if updates > than:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(path, aside)


def write_file(path: Path, part: str, tensors: Mapping[str, Tensor]) -> StoredFile:
    """Write tensors to `path`, flush them to the disk, and read them back for their digest.

    Raises:
        OSError: the file could not be written.
    """
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error
    fsync(path)
    return StoredFile(
        part=part, names=list(tensors), size=path.stat().st_size, sha256=sha256_file(path)
    )


def check_file(path: Path, expected: StoredFile, shapes: Mapping[str, Sequence[int]]) -> None:
    """Check that a file is what was written and holds float32 tensors of these shapes.

    Raises:
        UserError: it is damaged or unreadable, or holds tensors of another network.
    """
    try:
        size = path.stat().st_size
        if size != expected.size:
            raise UserError(f"{path}: {size} bytes; expected {expected.size}")
        if sha256_file(path) != expected.sha256:
            raise UserError(f"{path}: its SHA-256 is not the one in {STATE_FILE}")
        with safe_open(path, framework="pt") as file:
            for name in expected.names:
                tensor = file.get_slice(name)
                dtype, shape = tensor.get_dtype(), tuple(tensor.get_shape())
                if (dtype, shape) != ("F32", tuple(shapes[name])):
                    raise UserError(
                        f"{path}: {name} is {dtype} {shape}; expected F32 {tuple(shapes[name])}"
                    )
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def write_state(path: Path, state: StoredState) -> None:
    """Write the `state.json` of the checkpoint at `path`, which makes it count."""
    content = state.model_dump(mode="json")
    write_json(path / STATE_FILE, {"sha256": _digest(content), "state": content})


def read_state(path: Path) -> StoredState:
    """Return the state of the checkpoint at `path`.

    Raises:
        UserError: it is missing or damaged, or belongs to another checkpoint.
    """
    file = path / STATE_FILE
    content = read_json(file)
    if not isinstance(content, dict) or content.keys() != {"sha256", "state"}:
        raise UserError(f"{file}: expected an object with sha256 and state")
    if _digest(content["state"]) != content["sha256"]:
        raise UserError(f"{file}: its state does not have the SHA-256 that it names")
    try:
        state = StoredState.model_validate_json(json.dumps(content["state"]))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise UserError(f"{file}: {key}: {problem['msg']}") from error
    # beside the copied records of a run, the state is in a directory of another name
    if _NAME.fullmatch(path.name) and path != checkpoint_path(path.parent, state.updates):
        raise UserError(f"{file}: of update {state.updates}; expected that of {path.name}")
    return state


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
