import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

from esm1b.errors import UserError
from esm1b.evaluation.results import read_evaluations
from esm1b.evaluation.variants.baselines import blosum62
from esm1b.evaluation.variants.variants import evaluate_variants
from esm1b.inference.model import load_model
from esm1b.scoring.mutations import parse_variant
from esm1b.scoring.variant_scores import score_variants
from esm1b.weights.model_directory import ModelDirectory
from tests.inference.models import write_model

WILD_TYPES = {"one": "MKTVRQGLAS", "two": "ERTIDPKQNF", "three": "ACDEFGHIKL"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and three assays of random effects, double mutants among them, as a table."""
    folder = tmp_path_factory.mktemp("variants")
    write_model(folder / "model")
    generator = np.random.default_rng(2)
    lines = ["assay,category,kind,wild_type,mutant,DMS_score,DMS_score_bin,other"]
    for name, wild_type in WILD_TYPES.items():
        singles = [f"{letter}{n}{new}" for n, letter in enumerate(wild_type, 1) for new in "WY"]
        doubles = [f"{singles[n]}:{singles[n + 4]}" for n in range(6)]
        kind = "unseen" if name == "three" else "test"
        for variant in (*singles, *doubles):
            effect, other = generator.normal(size=2)
            facts = f"{name},Stability,{kind},{wild_type},{variant}"
            lines.append(f"{facts},{effect:.3f},{int(effect > 0)},{other:.3f}")
    (folder / "assays.csv").write_text("\n".join(lines) + "\n")
    return folder


def evaluated(folder: Path, data: str, output: Path, **options: Any) -> dict[str, Any]:
    evaluate_variants(folder / "model", folder / data, output, device="cpu", **options)
    content: dict[str, Any] = json.loads((output / "metrics.json").read_text())
    return content


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    options: dict[str, Any] = {"compare": ["Other"], "epistasis": 4, "untrained": 2}
    return evaluated(folder, "assays.csv", folder / "results", **options)


def test_every_model_is_measured_on_every_subset(folder: Path, results: dict[str, Any]) -> None:
    found = read_evaluations([folder / "results"], ModelDirectory(folder / "model"))["variants"]
    models = ["trained", "untrained", "blosum62", "residue_frequencies", "position_mean", "other"]
    assert found.models("spearman") == models
    assert found.subsets("spearman") == ["test", "unseen"]
    names = {
        *("spearman", "auroc", "mcc", "ndcg", "top_recall"),
        *("spearman_1_mutation", "spearman_2_mutations", "spearman_epistasis"),
        *(f"{name}_by_category" for name in ("spearman", "auroc", "mcc", "ndcg", "top_recall")),
    }
    assert {metric for metric, _, _ in found.metrics} == names
    assert found.models("spearman_epistasis") == ["trained", "untrained"]
    assert found.units("spearman", "test") == "2 families"
    assert found.comparison("spearman", "test", "other") is not None
    assert found.comparison("spearman", "test", "trained", "unseen") is not None
    protocol = found.content["protocol"]
    assert (protocol["assays"], protocol["variants"], protocol["untrained_networks"]) == (3, 78, 2)
    data = found.content["inputs"]["data"]
    digest = hashlib.sha256((folder / "assays.csv").read_bytes()).hexdigest()
    assert data == {"name": "assays.csv", "sha256": digest}
    assert found.content["inputs"]["options"]["compare"] == ["Other"]


def test_the_table_has_a_row_per_variant_with_all_scores(
    folder: Path, results: dict[str, Any]
) -> None:
    table = pq.read_table(folder / "results" / "variants.parquet")
    assert table.column_names == [
        *("assay", "variant", "mutations", "measured", "fit", "score_trained"),
        *("score_untrained_1", "score_untrained_2", "score_blosum62", "score_residue_frequencies"),
        *("score_position_mean", "score_other", "epistasis", "epistasis_trained"),
        *("epistasis_untrained_1", "epistasis_untrained_2"),
    ]
    assert table.num_rows == 78
    one = table.filter(pc.field("assay") == "one").to_pydict()
    model = load_model(folder / "model", device="cpu")
    variants = [parse_variant(name, WILD_TYPES["one"]) for name in one["variant"]]
    scores = score_variants(model, WILD_TYPES["one"], variants)
    assert one["score_trained"] == pytest.approx(scores, abs=5e-5)
    assert one["score_blosum62"] == blosum62(variants).tolist()
    for column in ("epistasis", "epistasis_trained"):
        assert sum(value is not None for value in one[column]) == 4
    (entry,) = [entry for entry in results["assays"] if entry["name"] == "one"]
    expected = spearmanr(one["measured"], one["score_trained"]).statistic
    assert entry["metrics"]["spearman"]["trained"] == pytest.approx(expected)
    low, high = entry["spearman_intervals"]["trained"]
    assert low < expected < high


def test_the_same_input_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        evaluated(folder, "assays.csv", tmp_path / name, untrained=1)
    for file in ("metrics.json", "variants.parquet"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_an_assay_that_cannot_be_used_is_left_out_and_told(folder: Path, tmp_path: Path) -> None:
    rows = (folder / "assays.csv").read_text().splitlines()
    constant = [",".join([*row.split(",")[:5], "1.0,1,0"]) for row in rows if row.startswith("two")]
    kept = [row for row in rows if not row.startswith("two")]
    (folder / "constant.csv").write_text("\n".join([*kept, *constant]) + "\n")
    content = evaluated(folder, "constant.csv", tmp_path / "out", untrained=0)
    assert [entry["name"] for entry in content["assays"]] == ["one", "three"]
    assert content["assays_left_out"] == {
        "two": f"{folder}/constant.csv: assay two: 26 of 26 rows can be used; "
        "expected at least two different measured effects"
    }
    (folder / "none.csv").write_text("\n".join([rows[0], *constant]) + "\n")
    with pytest.raises(UserError, match="assay two: 26 of 26 rows can be used"):
        evaluated(folder, "none.csv", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_column_cannot_have_the_name_of_a_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--compare: blosum62 is a name of our own"):
        evaluated(folder, "assays.csv", tmp_path / "out", compare=["blosum62"])


@pytest.mark.realdata
@pytest.mark.skipif(
    "ESM1B_REAL_DATA" not in os.environ,
    reason="ESM1B_REAL_DATA names no directory of real proteins",
)
def test_blosum62_on_beta_lactamase_and_poly_a_binding_protein(
    folder: Path, tmp_path: Path
) -> None:
    data = Path(os.environ["ESM1B_REAL_DATA"]) / "variant_effect"
    blat = tmp_path / "blat"
    evaluate_variants(
        folder / "model",
        data / "BLAT_ECOLX_Ranganathan2015.csv.gz",
        blat,
        wild_type=data / "BLAT_ECOLX.fasta",
        score_column="2500",
        convention="wildtype-marginals",
        untrained=0,
        device="cpu",
    )
    (entry,) = json.loads((blat / "metrics.json").read_text())["assays"]
    assert entry["variants"] == 4996
    assert entry["metrics"]["spearman"]["blosum62"] == pytest.approx(0.35, abs=0.02)
    pabp = tmp_path / "pabp"
    evaluate_variants(
        folder / "model",
        data / "PABP_YEAST_Melamed2013_pab1.tsv.gz",
        pabp,
        wild_type=data / "PABP_YEAST_pab1_wildtype.fasta",
        offset=126,
        convention="wildtype-marginals",
        untrained=0,
        device="cpu",
    )
    (entry,) = json.loads((pabp / "metrics.json").read_text())["assays"]
    assert (entry["variants"], entry["left_out"]) == (37710, {"stop codon": 3142})
    assert entry["metrics"]["spearman_1_mutation"]["blosum62"] == pytest.approx(0.30, abs=0.01)
