from typing import Any

import numpy as np
import pytest

from esm1b.config import parse_config
from esm1b.errors import UserError
from esm1b.pretraining.planning.data import (
    assumed_data,
    drawn_length_statistics,
    length_statistics,
    measured_data,
)

TINY = parse_config(
    {"model": {"maximum_tokens": 64}, "pretraining": {"crop_residues": 62}}, origin="tiny"
)


def test_sequences_of_the_release_that_is_named() -> None:
    def sequences(**corpus: Any) -> int | None:
        return assumed_data(parse_config({"corpus": corpus}, origin="test")).sequences

    assert sequences(release="2018_03", validation_ids="published") == 27_144_000
    assert sequences(release="2026_03", validation_fraction=0.5) == 19_420_014
    assert sequences(release="2026_03", validation_fraction=0.5, sample=0.1) == 1_942_001
    assert sequences(release="2026_03", limit="10MB") is None
    assert sequences(release="2025_03") is None
    assert sequences(sequences=["own.fasta"]) is None
    assert sequences() is None


def test_data_are_as_given_or_counted() -> None:
    given = assumed_data(TINY, mean_length=30.0, sequences=500)
    assert given.sequences == 500
    assert given.origin == (
        "number as given; 30 residues on average (as given), lengths taken as log-normal"
    )
    counted = measured_data(TINY, np.array([10, 20, 300], dtype=np.int32), "tokens")
    # 12, 22 and, cropped, 64 tokens
    assert (counted.sequences, counted.origin) == (3, "tokens")
    assert counted.lengths.mean_tokens == pytest.approx(98 / 3)
    assert counted.lengths.weighted_mean_length == pytest.approx((144 + 484 + 4096) / 98)
    with pytest.raises(UserError, match=r"^tokens: no training sequences; expected some$"):
        measured_data(TINY, np.empty(0, dtype=np.int32), "tokens")


def test_lengths_of_a_corpus() -> None:
    lengths = np.array([10, 20, 3000], dtype=np.int32)
    # 12, 22 and, cropped, 102 tokens: 136; squares 144 + 484 + 10,404 = 11,032
    found = length_statistics(lengths, crop_residues=100)
    assert found.mean_tokens == pytest.approx(136 / 3)
    assert found.weighted_mean_length == pytest.approx(11_032 / 136)
    alike = np.full(9, 98, dtype=np.int32)
    assert length_statistics(alike, crop_residues=1022).weighted_mean_length == 100


def test_lengths_drawn_from_a_mean_are_those_of_a_sample() -> None:
    spread = 0.70
    drawn = np.random.default_rng(1).lognormal(np.log(286.5) - spread**2 / 2, spread, 2_000_000)
    tokens = np.minimum(drawn, 1022) + 2
    found = drawn_length_statistics(286.5, crop_residues=1022)
    assert found.mean_tokens == pytest.approx(tokens.mean(), rel=2e-3)
    assert found.weighted_mean_length == pytest.approx((tokens**2).sum() / tokens.sum(), rel=2e-3)
    assert (round(found.mean_tokens, 1), round(found.weighted_mean_length, 1)) == (283.6, 427.5)
    # Nearly all are cropped: nearly all have 12 tokens.
    assert drawn_length_statistics(1e6, crop_residues=10).mean_tokens == pytest.approx(12)
