"""The page on the data: the corpus, from its manifest, and the sequences seen, from the audit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from esm1b.corpus.describe import (
    SPLIT_NAMES,
    cluster_warning,
    selection_text,
    source_text,
    split_text,
    steps,
)
from esm1b.corpus.manifest import SPLITS
from esm1b.errors import UserError
from esm1b.files import read_json
from esm1b.report.tables import Table, text_row

_AUDIT_KEYS: Final = {
    "updates",
    "sequences",
    "whole_epochs",
    "sequences_of_epoch",
    "times_seen",
    "skipped",
    "updates_compared",
    "lines_compared",
    "failures",
    "tokens_fingerprint",
}
_NAMES_SHOWN: Final = 5
_SKIPS_SHOWN: Final = 50


def corpus_section(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return source, selection, rule of the split, a warning or None, and the two tables."""
    counted = steps(manifest)
    read = counted[0][1] or 1
    step_rows = [
        text_row(
            label,
            f"{count:,}".replace("-", "\N{MINUS SIGN}"),
            _share(abs(count) / read),
            strong=label == counted[-1][0],
        )
        for label, count in counted
    ]
    split_rows = []
    for split in SPLITS:
        sequences, residues = manifest["sequences"][split], manifest["residues"][split]
        mean = f"{residues / sequences:.1f}" if sequences else "\N{EN DASH}"
        split_rows.append(text_row(SPLIT_NAMES[split], f"{sequences:,}", f"{residues:,}", mean))
    return {
        "source": source_text(manifest),
        "selection": selection_text(manifest["selection"]),
        "split": split_text(manifest["split"]),
        "warning": cluster_warning(manifest),
        "steps": Table(corner="records", head=["number", "share"], rows=step_rows),
        "splits": Table(
            corner="split", head=["sequences", "residues", "mean length"], rows=split_rows
        ),
    }


def read_audit(path: Path, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of an `audit.json` about the run that made the `model` described.

    Raises:
        UserError: the file is not an audit, or is about a run on other tokens.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not content.keys() >= _AUDIT_KEYS:
        raise UserError(f"{path}: expected the audit.json that audit wrote")
    fingerprint = model.get("tokens_fingerprint")
    if fingerprint is not None and content["tokens_fingerprint"] != fingerprint:
        raise UserError(
            f"{path}: about a run on tokens {content['tokens_fingerprint']}; expected "
            f"{fingerprint}, those of the model of this report"
        )
    return content


def audit_section(audit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the words and tables on the sequences: how often each was seen, which were skipped."""
    compared, lines = audit["updates_compared"], audit["lines_compared"]
    which = "all updates" if compared == audit["updates"] else f"{compared:,} updates"
    times_rows = [
        text_row(
            f"{int(times):,} time{'' if int(times) == 1 else 's'}",
            f"{count:,}",
            f"{100 * count / audit['sequences']:.3g} %",
        )
        for times, count in sorted(audit["times_seen"].items(), key=lambda item: int(item[0]))
    ]
    return {
        "updates": audit["updates"],
        "whole_epochs": audit["whole_epochs"],
        "sequences_of_epoch": audit["sequences_of_epoch"],
        "compared": f"{which} one by one" + (f", and {lines:,} lines of the log" if lines else ""),
        "failures": audit["failures"],
        "times": Table(corner="seen", head=["training sequences", "share"], rows=times_rows),
        "skipped": _skipped_table(audit) if audit["skipped"] else None,
    }


def _skipped_table(audit: Mapping[str, Any]) -> Table:
    """Return the updates that changed nothing, and the sequences they would have trained on."""
    rows = []
    for update in audit["skipped"][:_SKIPS_SHOWN]:
        names = update.get("ids") or [f"number {number}" for number in update["sequences"]]
        shown = ", ".join(str(name) for name in names[:_NAMES_SHOWN])
        more = len(names) - _NAMES_SHOWN
        shown += f" and {more:,} more" if more > 0 else ""
        rows.append(text_row(f"{update['update']:,}", f"{len(update['sequences']):,}", shown))
    left_out = len(audit["skipped"]) - _SKIPS_SHOWN
    return Table(
        corner="skipped update",
        head=["sequences", "which"],
        rows=rows,
        notes=[f"And {left_out:,} more, in audit.json."] if left_out > 0 else [],
    )


def _share(share: float) -> str:
    return f"{100 * share:.3g} %" if share >= 0.00005 or not share else "< 0.01 %"
