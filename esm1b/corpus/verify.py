"""Whether the files of a corpus or of tokens are still what their manifest says."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from esm1b.corpus.manifest import (
    CORPUS_FORMAT,
    MANIFEST,
    SPLITS,
    TOKENS_FORMAT,
    check_shards,
    corpus_fingerprint,
    read_manifest,
)
from esm1b.corpus.tokens.tokenize import tokens_fingerprint
from esm1b.errors import UserError
from esm1b.files import read_json, sha256_file

_TOKENS_KEYS: Final = ("corpus_fingerprint", "shards", "fingerprint")
_CORPUS_KEYS: Final = (
    *("source", "inputs", "counts", "sequences", "residues", "length_histogram", "composition"),
    *("selection", "split", "shards", "fingerprint"),
)


def read_either_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest of a corpus or of tokens.

    Raises:
        UserError: there is none, or it is of neither format or of another version.
    """
    path = directory / MANIFEST
    content = read_json(path) if path.is_file() else None
    is_tokens = isinstance(content, dict) and content.get("format") == TOKENS_FORMAT
    manifest = read_manifest(directory, TOKENS_FORMAT if is_tokens else CORPUS_FORMAT)
    missing = [key for key in (_TOKENS_KEYS if is_tokens else _CORPUS_KEYS) if key not in manifest]
    if missing:
        raise UserError(f"{path}: has no {missing[0]}; expected it whole, as it was written")
    return manifest


def verify(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Check sums, fingerprint, and the digest of every shard of a corpus or of tokens.

    Raises:
        UserError: naming the first thing that differs: a sum or the fingerprint within the
            manifest, a shard that is missing, damaged or not in the manifest.
    """
    shards: dict[str, list[dict[str, Any]]] = manifest["shards"]
    _check_manifest(directory / MANIFEST, manifest)
    listed = [shard for split in SPLITS for shard in shards[split]]
    check_shards(directory, listed)
    _check_no_others(directory, {shard["file"] for shard in listed})
    size = sum(shard["bytes"] for shard in listed)
    with tqdm(desc="verify", total=size, unit="B", unit_scale=True, disable=None) as bar:
        for shard in listed:
            path = directory / shard["file"]
            digest = sha256_file(path)
            if digest != shard["sha256"]:
                raise UserError(
                    f"{path}: SHA-256 {digest}; expected {shard['sha256']}, as in {MANIFEST}"
                )
            bar.update(shard["bytes"])


def _check_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    shards = manifest["shards"]
    if manifest["format"] == TOKENS_FORMAT:
        expected = tokens_fingerprint(manifest["corpus_fingerprint"])
    else:
        expected = corpus_fingerprint(shards)
        counts = manifest["counts"]
        for name, field in (("sequences", "rows"), ("residues", "residues")):
            for split in SPLITS:
                total = _sum(shards[split], field)
                _check(path, f"{name}.{split}", manifest[name][split], total, "its shards")
        kept = sum(manifest["sequences"].values())
        _check(path, "counts.kept", counts["kept"], kept, "its splits")
        read = counts["kept"] + sum(counts["dropped"].values())
        _check(path, "counts.read", counts["read"], read, "what was kept and dropped")
        letters = sum(manifest["composition"].values())
        residues = sum(manifest["residues"].values())
        _check(path, "composition", letters, residues, "its splits")
    _check(path, "fingerprint", manifest["fingerprint"], expected, "its shards")


def _check(path: Path, key: str, found: Any, expected: Any, source: str) -> None:
    if found != expected:
        raise UserError(f"{path}: {key}: {found}; expected {expected}, from {source}")


def _sum(shards: Sequence[Mapping[str, Any]], field: str) -> int:
    return sum(shard[field] for shard in shards)


def _check_no_others(directory: Path, listed: set[str]) -> None:
    for split in SPLITS:
        for path in sorted((directory / split).iterdir()):
            if f"{split}/{path.name}" not in listed:
                raise UserError(f"{path}: is not in {MANIFEST}; expected only the shards there")
