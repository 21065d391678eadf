"""Whether the files of a corpus or of tokens are still what their manifest says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from esm1b.corpus.manifest import (
    MANIFEST,
    SPLITS,
    TOKENS_FORMAT,
    checked_shards,
    corpus_fingerprint,
    tokens_fingerprint,
)
from esm1b.errors import UserError
from esm1b.files import sha256_file


def verify(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Check sums, fingerprint, and the digest of every shard of a corpus or of tokens.

    Raises:
        UserError: naming the first thing that differs: a sum or the fingerprint within the
            manifest, a shard that is missing, damaged or not in the manifest.
    """
    _check_manifest(directory / MANIFEST, manifest)
    listed = checked_shards(directory, manifest)
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
    def check(key: str, found: Any, expected: Any, source: str) -> None:
        if found != expected:
            raise UserError(f"{path}: {key}: {found}; expected {expected}, from {source}")

    shards = manifest["shards"]
    if manifest["format"] == TOKENS_FORMAT:
        fingerprint = tokens_fingerprint(manifest["corpus_fingerprint"])
    else:
        fingerprint = corpus_fingerprint(shards)
        counts, letters = manifest["counts"], sum(manifest["composition"].values())
        for name, field in (("sequences", "rows"), ("residues", "residues")):
            for split in SPLITS:
                total = sum(shard[field] for shard in shards[split])
                check(f"{name}.{split}", manifest[name][split], total, "its shards")
        check("counts.kept", counts["kept"], sum(manifest["sequences"].values()), "its splits")
        read = counts["kept"] + sum(counts["dropped"].values())
        check("counts.read", counts["read"], read, "what was kept and dropped")
        check("composition", letters, sum(manifest["residues"].values()), "its splits")
    check("fingerprint", manifest["fingerprint"], fingerprint, "its shards")


def _check_no_others(directory: Path, listed: set[str]) -> None:
    for split in SPLITS:
        for path in sorted((directory / split).iterdir()):
            if f"{split}/{path.name}" not in listed:
                raise UserError(f"{path}: is not in {MANIFEST}; expected only the shards there")
