from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from esm1b.inference.contact_pictures import draw_contact_map, top_long_range_pairs


def test_the_most_probable_pairs_of_long_range() -> None:
    probabilities = np.zeros((27, 27), dtype=np.float32)
    probabilities[0, 1] = probabilities[1, 0] = 0.9  # of short range
    probabilities[2, 26] = probabilities[26, 2] = 0.7
    probabilities[0, 25] = probabilities[25, 0] = 0.8
    probabilities[0, 26] = probabilities[26, 0] = np.nan
    pairs = top_long_range_pairs(probabilities).T.tolist()
    assert pairs == [[0, 25], [2, 26], [0, 24], [1, 25], [1, 26]]
    assert top_long_range_pairs(probabilities[:24, :24]).shape == (2, 0)


@pytest.mark.parametrize("length", [1, 24, 25, 1200])
def test_pictures_of_any_length(length: int, tmp_path: Path) -> None:
    probabilities = np.full((length, length), 0.5, dtype=np.float32)
    if length > 1000:
        probabilities[:700, 700:] = probabilities[700:, :700] = np.nan
    draw_contact_map(tmp_path / "a.png", probabilities, "a long $title$ " * 10)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_one_strong_contact_of_a_long_protein_is_drawn(tmp_path: Path) -> None:
    probabilities = np.zeros((2300, 2300), dtype=np.float32)
    draw_contact_map(tmp_path / "none.png", probabilities, "a")
    probabilities[1001, 2003] = probabilities[2003, 1001] = 1
    draw_contact_map(tmp_path / "one.png", probabilities, "a")
    assert (imread(tmp_path / "none.png") != imread(tmp_path / "one.png")).any()
