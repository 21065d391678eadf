"""The manifests of corpora and token directories: what they hold and whether it is still so."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from esm1b.errors import UserError
from esm1b.files import read_json

__all__ = [
    "CORPUS_FORMAT",
    "FORMAT_VERSION",
    "MANIFEST",
    "SPLITS",
    "TOKENS_FORMAT",
    "SplitName",
    "check_shards",
    "composition",
    "corpus_fingerprint",
    "digest_of",
    "length_histogram",
    "read_manifest",
]

SplitName = Literal["train", "validation"]
SPLITS: Final[tuple[SplitName, SplitName]] = ("train", "validation")
MANIFEST: Final = "manifest.json"
CORPUS_FORMAT: Final = "esm1b-corpus"
TOKENS_FORMAT: Final = "esm1b-tokens"
FORMAT_VERSION: Final = 1

_HISTOGRAM_BINS: Final = 50


def read_manifest(directory: Path, expected_format: str) -> dict[str, Any]:
    """Return the manifest of `directory`.

    Raises:
        UserError: there is none, or it is of another format or version.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise UserError(f"{directory}: no {MANIFEST}; expected a directory of {expected_format}")
    manifest: dict[str, Any] = read_json(path)
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != expected_format:
        raise UserError(f"{path}: format {found!r}; expected {expected_format!r}")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path}: format_version {manifest.get('format_version')!r}; expected {FORMAT_VERSION}"
        )
    return manifest


def check_shards(directory: Path, shards: Sequence[Mapping[str, Any]]) -> None:
    """Check that the files of `shards` are there and as large as the manifest says.

    Raises:
        UserError: one is missing or of another size.
    """
    for shard in shards:
        path = directory / shard["file"]
        size = path.stat().st_size if path.is_file() else None
        if size != shard["bytes"]:
            found = "missing" if size is None else f"{size} bytes"
            raise UserError(f"{path}: {found}; expected {shard['bytes']} bytes, as in {MANIFEST}")


def corpus_fingerprint(shards: Mapping[SplitName, Sequence[Mapping[str, Any]]]) -> str:
    """Return the SHA-256 over all that determines training.

    That is, per split, the shards with the lengths and residues of their sequences in order; not
    the names of files, ids and annotations, or the compression.
    """
    content = {split: [shard["sequences_sha256"] for shard in shards[split]] for split in SPLITS}
    return digest_of({"format": CORPUS_FORMAT, "version": FORMAT_VERSION, "sequences": content})


def digest_of(value: Any) -> str:
    """Return the SHA-256 of a JSON value, in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def length_histogram(counts: Mapping[SplitName, Mapping[int, int]]) -> dict[str, list[int]]:
    """Return the sequences per interval of lengths, from the sequences of each length.

    Bin k counts lengths in `[edges[k], edges[k + 1])`. The bins are equally wide up to about the
    99th percentile; one more holds the rest.

    Args:
        counts: per split, sequences of each length that occurs.
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
        occurring, weights = list(per_length), list(per_length.values())
        bins = np.histogram(np.array(occurring, np.int64), edges, weights=np.array(weights))[0]
        histogram[split] = [int(count) for count in bins]
    return histogram


def composition(counts: NDArray[np.int64]) -> dict[str, int]:
    """Return the symbols that occur and how often, from `[256]` counts of characters."""
    return {chr(symbol): int(counts[symbol]) for symbol in np.flatnonzero(counts)}
