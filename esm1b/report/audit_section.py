"""What the page says of the sequences that were trained on, from the audit of the run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from esm1b.errors import UserError
from esm1b.files import read_json
from esm1b.report.tables import Cell, Row, Table

_KEYS: Final = {
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


def read_audit(path: Path, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of an `audit.json`.

    Args:
        path: what `esm1b audit --output` wrote.
        model: the description of the model that the report is about.

    Raises:
        UserError: it is no audit, or of a run on other tokens.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not content.keys() >= _KEYS:
        raise UserError(f"{path}: expected the audit.json that audit wrote")
    fingerprint = model.get("tokens_fingerprint")
    if fingerprint is not None and content["tokens_fingerprint"] != fingerprint:
        raise UserError(
            f"{path}: of a run on tokens {content['tokens_fingerprint']}; expected {fingerprint}, "
            "those of the model of this report"
        )
    return content


def audit_section(audit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the words and tables of the page: how often sequences were seen, what was skipped."""
    return {
        "updates": audit["updates"],
        "whole_epochs": audit["whole_epochs"],
        "sequences_of_epoch": audit["sequences_of_epoch"],
        "compared": _compared(audit),
        "failures": audit["failures"],
        "times": _times_table(audit),
        "skipped": _skipped_table(audit) if audit["skipped"] else None,
    }


def _compared(audit: Mapping[str, Any]) -> str:
    """Return what was compared with the order, in words."""
    compared, lines = audit["updates_compared"], audit["lines_compared"]
    which = "all updates" if compared == audit["updates"] else f"{compared:,} updates"
    return f"{which} one by one" + (f", and {lines:,} lines of the log" if lines else "")


def _times_table(audit: Mapping[str, Any]) -> Table:
    """Return the sequences by how often they were seen."""
    rows = [
        Row(
            label=f"{int(times):,} time{'' if int(times) == 1 else 's'}",
            cells=[Cell(text=f"{count:,}"), Cell(text=f"{100 * count / audit['sequences']:.3g} %")],
        )
        for times, count in sorted(audit["times_seen"].items(), key=lambda item: int(item[0]))
    ]
    return Table(corner="seen", head=["training sequences", "share"], rows=rows)


def _skipped_table(audit: Mapping[str, Any]) -> Table:
    """Return the updates that changed nothing, and which sequences they would have trained on."""
    rows = []
    for update in audit["skipped"][:_SKIPS_SHOWN]:
        names = update.get("ids") or [f"number {number}" for number in update["sequences"]]
        shown = ", ".join(str(name) for name in names[:_NAMES_SHOWN])
        more = len(names) - _NAMES_SHOWN
        rows.append(
            Row(
                label=f"{update['update']:,}",
                cells=[
                    Cell(text=f"{len(update['sequences']):,}"),
                    Cell(text=shown + (f" and {more:,} more" if more > 0 else "")),
                ],
            )
        )
    left_out = len(audit["skipped"]) - _SKIPS_SHOWN
    return Table(
        corner="skipped update",
        head=["sequences", "which"],
        rows=rows,
        notes=[f"And {left_out:,} more, in audit.json."] if left_out > 0 else [],
    )
