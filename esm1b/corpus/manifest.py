"""Manifests of corpora and token directories: schema, fingerprints, and what they say of files."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from tqdm import tqdm

from esm1b.alphabet import TOKENS
from esm1b.errors import UserError
from esm1b.files import read_json, sha256_file

SplitName = Literal["train", "validation"]
SPLITS: Final[tuple[SplitName, SplitName]] = ("train", "validation")
MANIFEST: Final = "manifest.json"
CORPUS_FORMAT: Final = "esm1b-corpus"
TOKENS_FORMAT: Final = "esm1b-tokens"
FORMAT_VERSION: Final = 1

_KEYS: Final = {
    CORPUS_FORMAT: (
        *("source", "inputs", "counts", "sequences", "residues", "length_histogram"),
        *("composition", "selection", "split", "shards", "fingerprint"),
    ),
    TOKENS_FORMAT: ("corpus_fingerprint", "alphabet", "shards", "fingerprint"),
}
_HISTOGRAM_BINS: Final = 50


def read_manifest(directory: Path, *formats: str) -> dict[str, Any]:
    """Return the manifest of `directory`, which must be of one of `formats`.

    Raises:
        UserError: there is none, it is of another format or version, or lacks a key.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{directory}: no {MANIFEST}; expected a directory of {' or '.join(formats)}"
        )
    manifest: dict[str, Any] = read_json(path)
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found not in formats:
        raise UserError(
            f"{path}: format {found!r}; expected {' or '.join(repr(name) for name in formats)}"
        )
    if manifest.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path}: format_version {manifest.get('format_version')!r}; expected {FORMAT_VERSION}"
        )
    for key in _KEYS[found]:
        if key not in manifest:
            raise UserError(f"{path}: no {key}; expected all of {', '.join(_KEYS[found])}")
    return manifest


def shard_entry(path: Path, rows: int, residues: int) -> dict[str, Any]:
    """Return the entry of a manifest for a shard, in the folder of its split."""
    return {
        "file": f"{path.parent.name}/{path.name}",
        "rows": rows,
        "residues": residues,
        "bytes": path.stat().st_size,
        "sha256": sha256_file(path),
    }


def checked_shards(
    directory: Path, manifest: Mapping[str, Any], splits: Sequence[SplitName] = SPLITS
) -> list[dict[str, Any]]:
    """Return the shards of `splits` in order, whose files are as large as the manifest says.

    Raises:
        UserError: one is missing or of another size.
    """
    shards = [shard for split in splits for shard in manifest["shards"][split]]
    for shard in shards:
        path = directory / shard["file"]
        size = path.stat().st_size if path.is_file() else None
        if size != shard["bytes"]:
            found = "missing" if size is None else f"{size} bytes"
            raise UserError(f"{path}: {found}; expected {shard['bytes']} bytes, as in {MANIFEST}")
    return shards


def verify(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Check sums, fingerprint, and the digest of every shard of a corpus or of tokens.

    Raises:
        UserError: naming the first thing that differs: a sum or the fingerprint within the
            manifest, a shard that is missing, damaged or not in the manifest.
    """
    check_sums(directory / MANIFEST, manifest)
    listed = checked_shards(directory, manifest)
    names = {shard["file"] for shard in listed}
    for path in sorted(path for split in SPLITS for path in (directory / split).iterdir()):
        if f"{path.parent.name}/{path.name}" not in names:
            raise UserError(f"{path}: is not in {MANIFEST}; expected only the shards there")
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


def check_sums(path: Path, manifest: Mapping[str, Any]) -> None:
    """Check that the numbers and the fingerprint of the manifest at `path` agree with each other.

    Raises:
        UserError: naming the first that does not.
    """

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


def corpus_fingerprint(shards: Mapping[SplitName, Sequence[Mapping[str, Any]]]) -> str:
    """Return the SHA-256 over all that determines training.

    This is, per split, the shards with the lengths and residues of their sequences in order, but
    not the names of files, ids and annotations, or the compression.
    """
    content = {split: [shard["sequences_sha256"] for shard in shards[split]] for split in SPLITS}
    return _digest({"format": CORPUS_FORMAT, "version": FORMAT_VERSION, "sequences": content})


def tokens_fingerprint(corpus: str) -> str:
    """Return the SHA-256 over the corpus's fingerprint, the alphabet and the format."""
    content = {"format": TOKENS_FORMAT, "version": FORMAT_VERSION, "corpus": corpus}
    return _digest({**content, "alphabet": TOKENS})


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def length_histogram(counts: Mapping[SplitName, Mapping[int, int]]) -> dict[str, list[int]]:
    """Return the number of sequences per interval of lengths, by split.

    Bin k counts lengths in `[edges[k], edges[k + 1])`. The bins are equally wide up to about the
    99th percentile; one more holds the rest.

    Args:
        counts: number of sequences of each length that occurs, by split.
    """
    total = Counter(counts["train"]) + Counter(counts["validation"])
    lengths = sorted(total)
    cumulative = np.cumsum([total[length] for length in lengths])
    shortest, longest = lengths[0], lengths[-1]
    most = lengths[int(np.searchsorted(cumulative, 0.99 * cumulative[-1]))]
    width = -(-(most + 1 - shortest) // _HISTOGRAM_BINS)
    edges = list(range(shortest // width * width, most + 1 + width, width))
    if edges[-1] <= longest:
        edges.append(longest + 1)
    histogram = {"edges": edges}
    for split, per_length in counts.items():
        bins = np.histogram(list(per_length), edges, weights=list(per_length.values()))[0]
        histogram[split] = [int(count) for count in bins]
    return histogram
