"""What was run: network, updates, data, versions, commit and configuration."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import esm1b
from esm1b.config import ModelConfig, PretrainingConfig, describe
from esm1b.errors import UserError
from esm1b.files import read_json
from esm1b.pretraining.audit.times_seen import Audit
from esm1b.versions import versions
from esm1b.weights.model_directory import ModelDirectory

_AUDIT_KEYS: Final = {each.name for each in fields(Audit)} - {"counts", "ids"}


def run_facts(
    model: ModelDirectory,
    manifest: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return name, updates, a sentence and the facts of a run, in the words of the page.

    They are those of the `model`, the corpus's `manifest` and the `lines` of `metrics.jsonl`.
    """
    description, shape = model.description, model.shape
    parameters = shape.parameters()
    millions = parameters / 1e6
    spoken = f"{millions:.2g} M" if millions < 100 else f"{millions:,.0f} M"  # 0.17 M, 148 M
    updates = description.get("updates", lines[-1]["update"])
    per_update = description.get("pretraining", {}).get("tokens_per_update")
    tokens = f" of {per_update:,} tokens: {updates * per_update:,} tokens" if per_update else ""
    software: Mapping[str, str] = description.get("versions") or versions()
    facts = {
        "Network": f"{shape.name}'s, {shape.layers} layers, width {shape.width:,}, "
        f"{shape.heads} heads, feed-forward {shape.feed_forward:,}, "
        f"{shape.maximum_tokens:,} positions",
        "Parameters": f"{parameters:,}",
        "Updates": f"{updates:,}{tokens}",
        "Attempts": str(max(line["attempt"] for line in lines)),
        "Corpus fingerprint": manifest["fingerprint"],
        "Token fingerprint": description.get("tokens_fingerprint"),
        "Software": ", ".join(f"{package} {number}" for package, number in software.items()),
        "Commit": git_commit(Path(esm1b.__file__).parent),
    }
    return {
        "name": description.get("run", model.name),
        "updates": updates,
        "sentence": f"{spoken} parameters, {updates:,} updates, "
        f"{manifest['sequences']['train']:,} training sequences",
        "facts": {name: fact for name, fact in facts.items() if fact is not None},
    }


def read_audit(path: Path, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of an `audit.json` about the run that made the `model` described.

    Raises:
        UserError: the file is not an audit, or is about a run on other tokens.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not content.keys() >= {*_AUDIT_KEYS, "tokens_fingerprint"}:
        raise UserError(f"{path}: expected the audit.json that audit wrote")
    fingerprint = model.get("tokens_fingerprint")
    if fingerprint is not None and content["tokens_fingerprint"] != fingerprint:
        raise UserError(
            f"{path}: about a run on tokens {content['tokens_fingerprint']}; expected "
            f"{fingerprint}, those of the model of this report"
        )
    return content


def git_commit(package: Path) -> str | None:
    """Return the commit of the code in `package`, and whether it has been changed since.

    None where git does not know the directory: an installed package may be inside somebody else's
    repository, untracked.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    changed = _git(package, "status", "--porcelain", "--", ".")
    return f"{commit}, with uncommitted changes" if commit and changed else commit


def configuration(description: Mapping[str, Any]) -> Sequence[tuple[str, str, str]]:
    """Return key, value and meaning of every entry of `esm1b.json`."""
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
