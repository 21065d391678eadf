"""Published numbers of ESM-1b and its neighbours, for the report to print beside ours.

None was measured here. Each protocol differs from ours in data or regression, and each entry of
`published.json` says how; a number that was not read in its primary source is marked as
second-hand.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Published:
    """A number as its source states it; `metric` is our name of the nearest quantity."""

    model: str
    metric: str
    value: float
    protocol: str
    source: str
    second_hand: bool


def _read(path: Path) -> dict[str, list[Published]]:
    return {
        kind: [
            Published(
                model=model,
                metric=metric,
                value=value,
                protocol=table["protocol"],
                source=table["source"],
                second_hand=table.get("second_hand", False),
            )
            for table in tables
            for model, row in table["values"].items()
            for metric, value in zip(table["metrics"], row, strict=True)
        ]
        for kind, tables in json.loads(path.read_text(encoding="utf-8")).items()
    }


PUBLISHED: Final[Mapping[str, Sequence[Published]]] = _read(
    Path(__file__).parent / "published.json"
)
"""By kind of evaluation; `contact_ranges` are ESM-1b's precisions by range of separation."""
