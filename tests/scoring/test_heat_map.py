"""The heat map of single substitutions."""

import re
from pathlib import Path

import numpy as np

from esm1b.scoring.heat_map import draw_heat_map
from esm1b.scoring.mutations import all_substitutions, parse_variant


def drawn(path: Path, wild_type: str, offset: int = 1) -> str:
    variants = all_substitutions(wild_type, offset=offset)
    scores = np.linspace(-3, 1, len(variants))
    draw_heat_map(path, wild_type, variants, scores, title="kinase $a", offset=offset)
    return path.read_text()


def test_many_positions_wrap_into_rows(tmp_path: Path) -> None:
    assert len(re.findall("<image", drawn(tmp_path / "a.svg", "MKAVL" * 15))) == 2  # and colours
    svg = drawn(tmp_path / "b.svg", "MKAVL" * 31, offset=24)
    assert len(re.findall("<image", svg)) == 4
    for text in ("kinase $a", ">30<", ">170<", "position; dots mark the wild type"):
        assert text in svg


def test_the_same_scores_give_the_same_bytes(tmp_path: Path) -> None:
    assert drawn(tmp_path / "a.svg", "MKAVL") == drawn(tmp_path / "b.svg", "MKAVL")


def test_only_the_stretch_with_variants_is_drawn(tmp_path: Path) -> None:
    wild_type = "MKAVL" * 60
    variants = [parse_variant("M151L", wild_type), parse_variant("M156L", wild_type)]
    draw_heat_map(tmp_path / "a.svg", wild_type, variants, np.array([0.0, 0.0]), title="", offset=1)
    svg = (tmp_path / "a.svg").read_text()
    assert ">160<" not in svg
    assert len(re.findall("<image", svg)) == 2
