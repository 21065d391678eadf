import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from esm1b.alphabet import CLS, EOS, MASK, encode
from esm1b.evaluation.variants.epistasis import measured_epistasis, predicted_epistasis
from esm1b.inference.model import Model, load_model
from esm1b.model.encoder import Encoder
from esm1b.scoring.mutations import Variant
from tests.evaluation.variants.made_assays import assay, variants
from tests.inference.models import write_model

SINGLES = {"A1C": -1.0, "A2C": -2.0, "A2D": -0.5}
WILD_TYPE = "MKTVRQGLAS"


def test_epistasis_is_what_the_sum_leaves() -> None:
    made = assay("AAA", {**SINGLES, "A1C:A2C": -2.0, "A1C:A2D": -4.0, "A1C:A3D": 5.0})
    rows, measured = measured_epistasis(made, most=9, seed=0)
    assert rows.tolist() == [3, 4]  # A3D alone is not measured
    assert measured.tolist() == [1.0, -2.5]


def test_double_mutants_are_drawn_by_the_seed() -> None:
    doubles = {f"A1{a}:A2{b}": 1.0 for a, b in itertools.product("CDEFG", repeat=2)}
    singles = {f"A{place}{letter}": 0.0 for place in (1, 2) for letter in "CDEFG"}
    made = assay("AA", {**singles, **doubles})
    drawn = [measured_epistasis(made, most=7, seed=seed)[0].tolist() for seed in (0, 0, 1)]
    assert [len(each) for each in drawn] == [7, 7, 7]
    assert drawn[0] == drawn[1] != drawn[2]
    assert measured_epistasis(made, most=0, seed=0)[1].size == 0


def effect(model: Model, sequence: str, single: Variant) -> float:
    """Return log p(mutant) - log p(wild type) in a sequence where the position is hidden."""
    (mutation,) = single.mutations
    place = mutation.position + 1
    tokens = np.array([CLS, *encode(sequence), EOS], dtype=np.int64)
    tokens[place] = MASK
    row = model.log_probabilities(tokens, np.array([len(tokens)]), np.array([place]))[0]
    before, after = encode(mutation.wild_type + mutation.mutant)
    return float(row[after] - row[before])


def test_a_network_predicts_the_second_effect_with_the_first_less_without(tmp_path: Path) -> None:
    loaded = load_model(write_model(tmp_path / "model"), device="cpu")
    assert isinstance(loaded.network, Encoder)
    model = replace(loaded, network=loaded.network.double())
    doubles = variants(WILD_TYPE, "K2A:L8E", "K2A:L8D", "M1C:S10R")
    expected = []
    for double in doubles:
        first, second = variants(WILD_TYPE, *double.name.split(":"))
        orders = [
            effect(model, background.applied(WILD_TYPE), single) - effect(model, WILD_TYPE, single)
            for background, single in ((first, second), (second, first))
        ]
        expected.append(np.mean(orders))
    found = predicted_epistasis(model, WILD_TYPE, doubles, window="optimal", batch_tokens=30)
    assert found == pytest.approx(expected, abs=1e-9)
