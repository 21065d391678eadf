import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esm1b.alphabet import encode
from esm1b.synthetic.assays import write_assay, write_reference
from esm1b.synthetic.families import SyntheticFamily
from esm1b.synthetic.potts import PottsForest
from tests.synthetic.forests import log_probability

WILD_TYPE = "LAGVSERT"
GENERATOR = np.random.default_rng(5)
FAMILY = SyntheticFamily(
    name="family-01",
    kind="test",
    ss3="H" * 8,
    potts=PottsForest(
        fields=GENERATOR.standard_normal((8, 20)),
        edges=np.array([[0, 6], [1, 7]]),
        couplings=GENERATOR.standard_normal((2, 20, 20)),
    ),
)


def table(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="ascii") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assays")
    write_reference(folder, [write_assay(folder, FAMILY, WILD_TYPE, np.random.default_rng(1))])
    return folder


def test_the_reference_describes_the_assay(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "DMS_substitutions.csv", "family-01.csv",
    ]  # fmt: skip
    (row,) = table(folder / "DMS_substitutions.csv")
    cutoff = float(row.pop("DMS_binarization_cutoff"))
    assert row == {
        "DMS_id": "family-01",
        "DMS_filename": "family-01.csv",
        "UniProt_ID": "family-01",
        "target_seq": "LAGVSERT",
        "seq_len": "8",
        "includes_multiple_mutants": "True",
        "DMS_total_number_mutants": "352",
        "DMS_number_single_mutants": "152",
        "DMS_number_multiple_mutants": "200",
        "DMS_binarization_method": "median",
        "kind": "test",
    }
    rows = table(folder / "family-01.csv")
    for variant in rows:
        assert variant["DMS_score_bin"] == str(int(float(variant["DMS_score"]) > cutoff))
    assert sum(variant["DMS_score_bin"] == "1" for variant in rows) == 176


def test_every_single_mutant_and_double_mutants_of_contacts(folder: Path) -> None:
    rows = table(folder / "family-01.csv")
    assert list(rows[0]) == [
        "mutant", "mutated_sequence", "DMS_score", "DMS_score_bin", "site_independent",
    ]  # fmt: skip
    assert len({row["mutant"] for row in rows}) == len(rows) == 352
    assert (rows[0]["mutant"], rows[0]["mutated_sequence"]) == ("L1A", "AAGVSERT")
    assert (rows[151]["mutant"], rows[151]["mutated_sequence"]) == ("T8C", "LAGVSERC")
    positions = []
    for row in rows:
        mutated = list(WILD_TYPE)
        mutations = [(text[0], int(text[1:-1]), text[-1]) for text in row["mutant"].split(":")]
        for before, position, after in mutations:
            assert before == WILD_TYPE[position - 1] != after
            mutated[position - 1] = after
        assert row["mutated_sequence"] == "".join(mutated)
        positions.append(tuple(position for _, position, _ in mutations))
    assert set(positions[152:]) == {(1, 7), (2, 8)}


def test_scores_are_exact(folder: Path) -> None:
    rows = table(folder / "family-01.csv")
    mutants = np.stack([encode(row["mutated_sequence"]) - 4 for row in rows])
    native = (encode(WILD_TYPE) - 4)[None]
    exact = log_probability(FAMILY.potts, mutants) - log_probability(FAMILY.potts, native)
    scores = [float(row["DMS_score"]) for row in rows]
    np.testing.assert_allclose(scores, exact, rtol=0, atol=1e-6)
    marginals = FAMILY.potts.marginals
    for row, mutant in zip(rows, mutants, strict=True):
        ratio = np.prod([marginals[i, mutant[i]] / marginals[i, native[0, i]] for i in range(8)])
        assert float(row["site_independent"]) == pytest.approx(np.log(ratio), abs=1e-6)


def test_the_same_draw_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_assay(tmp_path, FAMILY, WILD_TYPE, np.random.default_rng(1))
    assert (tmp_path / "family-01.csv").read_bytes() == (folder / "family-01.csv").read_bytes()
