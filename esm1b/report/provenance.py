"""What was run: network, data, versions, commit, configuration."""

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from esm1b.alphabet import PAD
from esm1b.config import ModelConfig, PretrainingConfig, describe
from esm1b.errors import UserError
from esm1b.files import read_json
from esm1b.model.shape import EncoderShape

__all__ = ["configuration", "git_commit", "read_shape", "software", "versions"]

_PACKAGES: Final = ("esm1b", "torch", "deepspeed")


def read_shape(model: Path) -> EncoderShape:
    """Return the size of the network in a model directory, from its `config.json`.

    Raises:
        UserError: the file is missing or leaves something out.
    """
    path = model / "config.json"
    content = read_json(path)
    try:
        return EncoderShape(
            layers=content["num_hidden_layers"],
            width=content["hidden_size"],
            heads=content["num_attention_heads"],
            feed_forward=content["intermediate_size"],
            maximum_tokens=content["max_position_embeddings"] - PAD - 1,
            layer_norm_before=content["emb_layer_norm_before"],
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}: {error}: missing; expected the configuration of a model"
        ) from error


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def software(found: Mapping[str, str]) -> str:
    """Return versions in a line."""
    return ", ".join(f"{package} {number}" for package, number in found.items())


def git_commit(package: Path) -> str | None:
    """Return the commit that `package` is of, with a note where it has been changed since.

    None where git does not know the directory: an installed package may lie in somebody else's
    repository, untracked.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    changed = _git(package, "status", "--porcelain", "--", ".")
    return f"{commit}, with uncommitted changes" if commit and changed else commit


def configuration(description: Mapping[str, Any]) -> Sequence[tuple[str, str, str]]:
    """Return (key, value, what it is) of what `esm1b.json` says about the run."""
    meaning = {
        key: text
        for section, prefix in ((ModelConfig, "model."), (PretrainingConfig, "pretraining."))
        for key, _, text in describe(section, prefix)
    }
    flat: dict[str, Any] = {}
    for key, value in description.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{inner}": content for inner, content in value.items()})
        else:
            flat[key] = value
    return [
        (key, value if isinstance(value, str) else json.dumps(value), meaning.get(key, ""))
        for key, value in flat.items()
    ]


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
