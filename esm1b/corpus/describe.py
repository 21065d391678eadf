"""Manifests of corpora and tokens in words, for the terminal and the report."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from esm1b.corpus.manifest import SPLITS, TOKENS_FORMAT
from esm1b.download.release import expected_clusters

_TOLERANCE: Final = 0.01

_REASONS: Final = {
    "other_characters": "other characters",
    "empty_sequence": "without a sequence",
    "excluded": "among those to exclude",
    "not_in_sample": "not in the sample",
    "duplicate_id": "id of another record",
    "held_out_sequence": "sequence of a held-out record",
}
SPLIT_NAMES: Final = {"train": "training", "validation": "validation"}
_BARS: Final = 20  # most rows of the histogram, besides the last
_BAR_WIDTH: Final = 40  # characters of the longest bar


def cluster_warning(manifest: Mapping[str, Any]) -> str | None:
    """Return a warning where a whole release was read but not all of its clusters, or None.

    The records must be within 1 % of the clusters, where their number is known.
    """
    source = manifest.get("source", {})  # tokens have none
    expected = expected_clusters(source.get("release", ""))
    if expected is None or "limit" in source or "sample" in source:
        return None
    read = manifest["counts"]["read"]
    if abs(read - expected) <= _TOLERANCE * expected:
        return None
    return (
        f"{read:,} records were read of UniRef50 {source['release']}, which has about "
        f"{expected:,} clusters"
    )


def steps(manifest: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the steps of the records into the corpus: read, dropped by reason, kept.

    Dropped records are negative, so that all steps but the last add up to the last.
    """
    counts = manifest["counts"]
    left_out = [
        (_REASONS.get(reason, reason.replace("_", " ")), -count)
        for reason, count in counts["dropped"].items()
        if count
    ]
    return [("read", counts["read"]), *left_out, ("kept", counts["kept"])]


def source_text(manifest: Mapping[str, Any]) -> str:
    """Return the origin of the sequences, as `UniRef50 2018_03`, or the names of the files."""
    source = manifest["source"]
    if not source:
        return ", ".join(entry["file"] for entry in manifest["inputs"])
    text = f"{source['name']} {source['release']}"
    if "limit" in source:
        text += f", its first {source['limit']}"
    if "sample" in source:
        text += f", a downloaded sample of {100 * source['sample']:g} %"
    return text


def split_text(split: Mapping[str, Any]) -> str:
    """Return the rule that chose the held-out sequences, in a few words."""
    if split["method"] == "sequence-hash":
        return f"{100 * split['fraction']:g} % of the sequences, by a keyed hash of the sequence"
    found = "all" if split["found"] == split["ids"] else f"{split['found']:,} of them"
    return f"by a list of {split['ids']:,} ids, {found} among the records"


def selection_text(selection: Mapping[str, Any]) -> str:
    """Return the rules that records had to meet beyond being proteins, in a few words."""
    excluded = selection.get("excluded", {})
    parts = {
        "strict": "every record had to fit",
        "minimum_length": f"at least {selection.get('minimum_length')} residues",
        "maximum_length": f"at most {selection.get('maximum_length')} residues",
        "sample": f"a sample of {100 * selection.get('sample', {}).get('fraction', 1):g} %",
        "excluded": f"without {excluded.get('found', 0):,} of {excluded.get('ids', 0):,} ids",
    }
    return ", ".join(text for name, text in parts.items() if selection.get(name)) or "all that fit"


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """Return the facts of a corpus or of tokens, for a terminal."""
    if manifest["format"] == TOKENS_FORMAT:
        lines = [*_shard_lines(manifest), *_fingerprint_lines(manifest)]
    else:
        lines = [
            f"source       {source_text(manifest)}",
            *_input_lines(manifest["inputs"]),
            *_section("records", _step_lines(manifest)),
            *_section("split", _split_lines(manifest)),
            *_section("length", _length_lines(manifest["length_histogram"])),
            *_section("composition, %", _composition_lines(manifest["composition"])),
            "",
            *_shard_lines(manifest),
            *_fingerprint_lines(manifest),
        ]
    return "\n".join(lines)


def _section(title: str, lines: Iterable[str]) -> list[str]:
    return ["", title, *(f"  {line}" for line in lines)]


def _input_lines(inputs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for entry in inputs:
        yield f"input        {entry['file']}, {entry['bytes']:,} bytes, SHA-256 {entry['sha256']}"


def _step_lines(manifest: Mapping[str, Any]) -> Iterator[str]:
    rows = [(f"{count:,}", label) for label, count in steps(manifest)]
    width = max(len(number) for number, _ in rows)
    for number, label in rows:
        yield f"{number:>{width}}  {label}"
    yield f"selected: {selection_text(manifest['selection'])}"


def _split_lines(manifest: Mapping[str, Any]) -> Iterator[str]:
    sequences, residues = manifest["sequences"], manifest["residues"]
    yield f"{'':10} {'sequences':>13} {'residues':>17} {'mean length':>12}"
    for split in SPLITS:
        mean = f"{residues[split] / sequences[split]:.1f}" if sequences[split] else "-"
        yield f"{SPLIT_NAMES[split]:10} {sequences[split]:13,} {residues[split]:17,} {mean:>12}"
    yield f"held out: {split_text(manifest['split'])}"


def _length_lines(histogram: Mapping[str, Sequence[int]]) -> Iterator[str]:
    rows = _bars(histogram)
    total = sum(count for _, _, count in rows) or 1
    most = max(count for _, _, count in rows) or 1
    width = len(f"{rows[-1][1]:,}")
    for low, high, count in rows:
        bar = "#" * round(count / most * _BAR_WIDTH)
        end = f" to {high:>{width},}" if high > low else " " * (width + 4)
        yield f"{low:>{width},}{end}  {count / total:7.2%}  {bar}".rstrip()


def _bars(histogram: Mapping[str, Sequence[int]]) -> list[tuple[int, int, int]]:
    """Return (shortest, longest, sequences) of a few neighbouring bins together.

    The last bin, which holds the few longest, stays alone.
    """
    edges = histogram["edges"]
    counts = [sum(both) for both in zip(*(histogram[split] for split in SPLITS), strict=True)]
    together = -(-(len(counts) - 1) // _BARS) or 1
    starts = [*range(0, len(counts) - 1, together), len(counts) - 1, len(counts)]
    return [
        (edges[first], edges[end] - 1, sum(counts[first:end])) for first, end in pairwise(starts)
    ]


def _composition_lines(composition: Mapping[str, int]) -> Iterator[str]:
    total = sum(composition.values())
    ordered = sorted(composition.items(), key=lambda item: (-item[1], item[0]))
    cells = [f"{symbol} {100 * count / total:<8.3g}" for symbol, count in ordered]
    for start in range(0, len(cells), 7):
        yield "".join(cells[start : start + 7]).rstrip()


def _shard_lines(manifest: Mapping[str, Any]) -> Iterator[str]:
    for split in SPLITS:
        shards = manifest["shards"][split]
        rows, residues, size = (
            sum(shard[key] for shard in shards) for key in ("rows", "residues", "bytes")
        )
        yield (
            f"{SPLIT_NAMES[split]:12} shards {len(shards):,}, sequences {rows:,}, "
            f"residues {residues:,}, bytes {size:,}"
        )


def _fingerprint_lines(manifest: Mapping[str, Any]) -> Iterator[str]:
    if "corpus_fingerprint" in manifest:
        yield f"corpus       {manifest['corpus_fingerprint']}"
    yield f"fingerprint  {manifest['fingerprint']}"
