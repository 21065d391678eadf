"""A checkpoint on disk: float32 tensors in safetensors, and JSON that says what belongs to it.

`CHECKPOINTS/update-00000200/` holds, for each process that saved, `weights-00001-of-00004`,
`first_moments-...` and `second_moments-...` (`.safetensors`, by parameter name), and `state.json`
with the digest of each and of itself.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from esm1b.errors import UserError
from esm1b.files import fsync, read_json, sha256_file, write_json
from esm1b.pretraining.skipped_updates import SkippedUpdate

_STATE: Final = "state.json"
_NAME: Final = re.compile(r"update-(\d{8,})")


class StoredFile(BaseModel):
    """One file of tensors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    part: str
    """weights, first_moments or second_moments"""
    names: list[str]
    """of its parameters"""
    size: int
    """bytes"""
    sha256: str
    """in hexadecimal"""


class StoredState(BaseModel):
    """The content of `state.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    updates: int
    """done, skipped ones included"""
    adam_steps: int
    """updates that Adam did"""
    scaler: dict[str, float] | None
    """loss scale of fp16 and what it counts"""
    skipped: list[SkippedUpdate]
    """updates whose gradient was not finite"""
    run: dict[str, Any] | None
    """what determines the run, as in `run.json`"""
    versions: dict[str, str]
    """of the software that saved"""
    files: dict[str, StoredFile]
    """by name"""


def checkpoint_path(directory: Path, updates: int) -> Path:
    """Return where the checkpoint after `updates` updates belongs."""
    return directory / f"update-{updates:08d}"


def checkpoints(directory: Path) -> dict[int, Path]:
    """Return the checkpoints of `directory` by update, the oldest first."""
    found = {
        int(match[1]): path
        for path in directory.glob("update-*")
        if (match := _NAME.fullmatch(path.name))
    }
    return dict(sorted(found.items()))


def shares(sizes: Mapping[str, int], count: int) -> list[list[str]]:
    """Return the names divided into `count` lists of about equal size in all.

    The largest goes first, each to the least loaded list, so the division depends on the sizes
    alone. Some lists are empty when there are fewer names.
    """
    divided: list[list[str]] = [[] for _ in range(count)]
    loads = [0] * count
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        lightest = loads.index(min(loads))
        divided[lightest].append(name)
        loads[lightest] += sizes[name]
    return divided


def write_file(path: Path, part: str, tensors: Mapping[str, Tensor]) -> StoredFile:
    """Write tensors to `path`, flush them to the disk, and read them back for their digest.

    Raises:
        OSError: the disk does not take it.
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
        UserError: it is not or cannot be read.
    """
    try:
        size = path.stat().st_size
        if size != expected.size:
            raise UserError(f"{path}: {size} bytes; expected {expected.size}")
        if sha256_file(path) != expected.sha256:
            raise UserError(f"{path}: its SHA-256 is not the one in {_STATE}")
        with safe_open(path, framework="pt") as file:
            for name in expected.names:
                tensor = file.get_slice(name)
                found = (tensor.get_dtype(), tuple(tensor.get_shape()))
                if found != ("F32", tuple(shapes[name])):
                    raise UserError(
                        f"{path}: {name} is {found[0]} {found[1]}; expected F32 "
                        f"{tuple(shapes[name])}"
                    )
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise UserError(f"{path}: {error}") from error


def write_state(path: Path, state: StoredState) -> None:
    """Write the `state.json` of the checkpoint at `path`, which makes it count."""
    content = state.model_dump(mode="json")
    write_json(path / _STATE, {"sha256": _digest(content), "state": content})


def read_state(path: Path) -> StoredState:
    """Return the state of the checkpoint at `path`.

    Raises:
        UserError: it is missing, not what was written, or of another checkpoint.
    """
    file = path / _STATE
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
    if path.name != checkpoint_path(path.parent, state.updates).name:
        raise UserError(f"{file}: of update {state.updates}; expected that of {path.name}")
    return state


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
