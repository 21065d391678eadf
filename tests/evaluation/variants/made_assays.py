"""Assays as a test writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from esm1b.evaluation.variants.assays import Assay, AssaySource
from esm1b.scoring.mutations import Variant, parse_variant


def variants(wild_type: str, *names: str) -> list[Variant]:
    return [parse_variant(name, wild_type) for name in names]


def assay(
    wild_type: str, effects: Mapping[str, float], *, name: str = "assay", **facts: Any
) -> Assay:
    """Return an assay of the effects by variant."""
    return Assay(
        source=AssaySource(
            name=name,
            wild_type=wild_type,
            read=lambda: (Path("none"), [], []),
            **{"protein": name, **facts},
        ),
        variants=variants(wild_type, *effects),
        measured=np.array(list(effects.values())),
        fit=None,
        compared={},
        left_out={},
    )
