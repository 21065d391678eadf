"""What was run: versions, commit, configuration."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from esm1b.config import ModelConfig, PretrainingConfig, describe


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
