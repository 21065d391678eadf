"""The inputs of an evaluation by name and digest, for its results and for the workflow."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esm1b.errors import UserError, one_line
from esm1b.files import sha256_file
from esm1b.versions import versions

if TYPE_CHECKING:  # Snakemake reads this module at every start, and would wait for PyTorch
    from esm1b.weights.model_directory import ModelDirectory

CHECKSUMS_FILE: Final = "inputs.sha256"


def describe_inputs(
    directory: Path, model: "ModelDirectory", options: Mapping[str, Any], **data: Path | None
) -> dict[str, Any]:
    """Return for `metrics.json` what an evaluation is computed from, with versions and digests.

    If a folder is among the data, its `folder_checksums` go to `inputs.sha256` in `directory`.

    Args:
        directory: output directory of the evaluation.
        model: the trained model.
        options: options of the evaluation.
        **data: files or one folder; None where one is not given.

    Raises:
        UserError: a file cannot be read.
    """
    entries: dict[str, Any] = {}
    try:
        entries["model"] = {"name": model.name, "sha256": model.digest()}
        for what, path in data.items():
            if path is None:
                continue
            entries[what] = {"name": path.absolute().name}
            if path.is_dir():
                checksums = folder_checksums(path)
                (directory / CHECKSUMS_FILE).write_bytes(checksums)
                entries[what] |= {"files": len(files_of(path)), "sha256": _sha256(checksums)}
            else:
                entries[what] |= {"sha256": sha256_file(path)}
    except OSError as error:
        raise UserError(one_line(error)) from error
    return {**entries, "versions": versions(), "options": dict(options)}


def files_of(path: Path) -> list[Path]:
    """Return `path`, or of a folder all files at any depth, sorted, without hidden ones."""
    if not path.is_dir():
        return [path]
    return sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )


def folder_checksums(folder: Path) -> bytes:
    """Return a line for each of `files_of(folder)`, as `sha256sum --check` reads it there."""
    return b"".join(
        f"{sha256_file(file)}  ".encode() + os.fsencode(file.relative_to(folder)) + b"\n"
        for file in files_of(folder)
    )


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the `folder_checksums` of a folder, in hexadecimal."""
    return _sha256(folder_checksums(path)) if path.is_dir() else sha256_file(path)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
