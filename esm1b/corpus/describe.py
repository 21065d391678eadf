"""Manifests of corpora and tokens in words, for the terminal and the report."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from esm1b.corpus.manifest import SPLITS, TOKENS_FORMAT
from esm1b.download.release import expected_clusters
from esm1b.sequences.record import NUCLEOTIDES, nucleotide_warning

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


def manifest_warnings(manifest: Mapping[str, Any]) -> list[str]:
    """Return what is suspicious about a corpus: clusters of its release missing, DNA in it."""
    composition = manifest.get("composition", {})  # tokens have none
    nucleotides = sum(composition.get(letter, 0) for letter in NUCLEOTIDES.decode())
    found = nucleotide_warning(nucleotides, sum(composition.values()))
    return [text for text in (cluster_warning(manifest), found) if text]


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
    return f"by a list of {split['ids']:,} ids, {found} found in the input"


def selection_text(selection: Mapping[str, Any]) -> str:
    """Return the rules that records had to meet beyond being proteins, in a few words."""
    excluded = selection.get("excluded", {})
    parts = {
        "strict": "strict: no invalid record allowed",
        "minimum_length": f"at least {selection.get('minimum_length')} residues",
        "maximum_length": f"at most {selection.get('maximum_length')} residues",
        "sample": f"a sample of {100 * selection.get('sample', {}).get('fraction', 1):g} %",
        "excluded": f"without {excluded.get('found', 0):,} of {excluded.get('ids', 0):,} ids",
    }
    return (
        ", ".join(text for name, text in parts.items() if selection.get(name))
        or "all valid records"
    )


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """Return the facts of a corpus or of tokens, for a terminal."""
    lines: list[str] = []
    if manifest["format"] != TOKENS_FORMAT:
        lines.append(f"source       {source_text(manifest)}")
        for one in manifest["inputs"]:
            name, size, digest = one["file"], one["bytes"], one["sha256"]
            lines.append(f"input        {name}, {size:,} bytes, SHA-256 {digest}")
        numbers = [(f"{count:,}", label) for label, count in steps(manifest)]
        width = max(len(number) for number, _ in numbers)
        lines += ["", "records", *(f"  {number:>{width}}  {label}" for number, label in numbers)]
        lines.append(f"  selected: {selection_text(manifest['selection'])}")
        heading = f"{'sequences':>13} {'residues':>17} {'mean length':>12}"
        lines += ["", "split", f"  {'':10} {heading}"]
        for split in SPLITS:
            sequences, residues = manifest["sequences"][split], manifest["residues"][split]
            mean = f"{residues / sequences:.1f}" if sequences else "-"
            lines.append(f"  {SPLIT_NAMES[split]:10} {sequences:13,} {residues:17,} {mean:>12}")
        lines.append(f"  held out: {split_text(manifest['split'])}")
        lines += ["", "length", *_length_lines(manifest["length_histogram"])]
        lines += ["", "composition, %", *_composition_lines(manifest["composition"]), ""]
    for split in SPLITS:
        shards = manifest["shards"][split]
        rows, residues, size = (
            sum(shard[key] for shard in shards) for key in ("rows", "residues", "bytes")
        )
        lines.append(
            f"{SPLIT_NAMES[split]:12} shards {len(shards):,}, sequences {rows:,}, "
            f"residues {residues:,}, bytes {size:,}"
        )
    if "corpus_fingerprint" in manifest:
        lines.append(f"corpus       {manifest['corpus_fingerprint']}")
    return "\n".join([*lines, f"fingerprint  {manifest['fingerprint']}"])


def _length_lines(histogram: Mapping[str, Sequence[int]]) -> Iterator[str]:
    edges = histogram["edges"]
    counts = [sum(both) for both in zip(*(histogram[split] for split in SPLITS), strict=True)]
    # a few neighbouring bins together; the last one, which holds the few longest, stays alone
    together = -(-(len(counts) - 1) // _BARS) or 1
    bounds = [*range(0, len(counts) - 1, together), len(counts) - 1, len(counts)]
    bars = [sum(counts[first:end]) for first, end in pairwise(bounds)]
    width = len(f"{edges[-1] - 1:,}")
    for (first, end), count in zip(pairwise(bounds), bars, strict=True):
        low, high = edges[first], edges[end] - 1
        bar = "#" * round(count / (max(bars) or 1) * _BAR_WIDTH)
        to = f" to {high:>{width},}" if high > low else " " * (width + 4)
        yield f"  {low:>{width},}{to}  {count / (sum(bars) or 1):7.2%}  {bar}".rstrip()


def _composition_lines(composition: Mapping[str, int]) -> Iterator[str]:
    total = sum(composition.values())
    ordered = sorted(composition.items(), key=lambda item: (-item[1], item[0]))
    cells = [f"{symbol} {100 * count / total:<8.3g}" for symbol, count in ordered]
    for start in range(0, len(cells), 7):
        yield f"  {''.join(cells[start : start + 7])}".rstrip()
