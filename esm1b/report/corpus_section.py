"""What the page says of the corpus, from its manifest."""

from collections.abc import Mapping
from typing import Any

from esm1b.corpus.describe import (
    SPLIT_NAMES,
    cluster_warning,
    selection_text,
    source_text,
    split_text,
    steps,
)
from esm1b.corpus.manifest import SPLITS
from esm1b.report.tables import Cell, Row, Table


def corpus_section(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return source, selection, rule of the split, a warning or None, and the two tables."""
    return {
        "source": source_text(manifest),
        "selection": selection_text(manifest["selection"]),
        "split": split_text(manifest["split"]),
        "warning": cluster_warning(manifest),
        "steps": _steps_table(manifest),
        "splits": _splits_table(manifest),
    }


def _steps_table(manifest: Mapping[str, Any]) -> Table:
    """Return the way of the records into the corpus: read, left out by reason, kept."""
    counted = steps(manifest)
    read = counted[0][1] or 1
    rows = [
        Row(
            label=label,
            cells=[Cell(text=_count(count)), Cell(text=_share(abs(count) / read))],
            strong=label == counted[-1][0],
        )
        for label, count in counted
    ]
    return Table(corner="records", head=["number", "share"], rows=rows)


def _splits_table(manifest: Mapping[str, Any]) -> Table:
    """Return sequences, residues and mean length of each split."""
    rows = []
    for split in SPLITS:
        sequences, residues = manifest["sequences"][split], manifest["residues"][split]
        mean = f"{residues / sequences:.1f}" if sequences else "\N{EN DASH}"
        cells = [Cell(text=text) for text in (f"{sequences:,}", f"{residues:,}", mean)]
        rows.append(Row(label=SPLIT_NAMES[split], cells=cells))
    return Table(corner="split", head=["sequences", "residues", "mean length"], rows=rows)


def _count(count: int) -> str:
    return f"{count:,}".replace("-", "\N{MINUS SIGN}")


def _share(share: float) -> str:
    return f"{100 * share:.3g} %" if share >= 0.00005 or not share else "< 0.01 %"
