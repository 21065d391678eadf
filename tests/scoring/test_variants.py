"""The table of variants and its heat map."""

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from esm1b.inference.model import load_model
from esm1b.scoring.mutations import all_substitutions, parse_variant
from esm1b.scoring.variant_scores import Convention, score_variants
from esm1b.scoring.variants import score_variant_table
from tests.inference.models import refused, run_command, write_fasta, write_model
from tests.scoring.kills import check_kills

WILD_TYPE = "MKAVLAGRWE"
HEAT_MAP = ["heat_map.svg", "variants.csv", "variants.parquet"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("variants") / "model")


@pytest.fixture
def wild_type(tmp_path: Path) -> str:
    return str(write_fasta(tmp_path / "wild_type.fasta", [WILD_TYPE]))


def rows_of(output: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(output / "variants.parquet").to_pylist()
    return rows


def test_all_single_substitutions(model: Path, wild_type: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run_command("variants", model, wild_type, "--all", "--output", output) == 0
    assert sorted(path.name for path in output.iterdir()) == [".esm1b", *HEAT_MAP]
    rows = rows_of(output)
    assert len(rows) == 190
    expected = score_variants(load_model(model), WILD_TYPE, all_substitutions(WILD_TYPE))
    np.testing.assert_allclose([row["score"] for row in rows], expected, rtol=0, atol=5e-5)
    assert {key: rows[0][key] for key in ("variant", "mutations", "mutation_count", "problem")} == {
        "variant": "M1A",
        "mutations": "M1A",
        "mutation_count": 1,
        "problem": None,
    }
    with (output / "variants.csv").open(newline="") as file:
        assert [float(row["score"]) for row in csv.DictReader(file)] == [r["score"] for r in rows]
    described = json.loads(pq.read_schema(output / "variants.parquet").metadata[b"esm1b"])
    assert described["convention"] == "masked-marginals"
    assert described["wild_type"] == WILD_TYPE


def test_rows_of_a_table_keep_their_order_and_what_has_no_score_is_counted(
    model: Path, wild_type: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["A26G:M24L", "p.Ala26=", "p.Lys25Arg", "M24*", "MKAVLAGRWD", "A26del", "A26G:M24L"]
    (tmp_path / "mutants.tsv").write_text("\n".join(["DMS\tMutant", *(f"1\t{t}" for t in texts)]))
    score_variant_table(
        model,
        wild_type,
        tmp_path / "out",
        mutants=tmp_path / "mutants.tsv",
        offset=24,
        convention="wildtype-marginals",
    )
    rows = rows_of(tmp_path / "out")
    assert [row["variant"] for row in rows] == texts
    assert [row["mutations"] for row in rows] == [
        *("M24L:A26G", None, "K25R", None, "E33D", None, "M24L:A26G")
    ]
    assert [row["problem"] for row in rows] == [
        *(None, "synonymous", None, "stop codon", None, "insertion or deletion", None)
    ]
    scored = [row["score"] for row in rows if row["problem"] is None]
    variants = [parse_variant(t, WILD_TYPE) for t in ("M1L:A3G", "K2R", "E10D", "M1L:A3G")]
    expected = score_variants(
        load_model(model), WILD_TYPE, variants, convention="wildtype-marginals"
    )
    np.testing.assert_allclose(scored, expected, rtol=0, atol=5e-5)
    assert [row["score"] for row in rows if row["problem"]] == [None] * 3
    assert (
        f"{tmp_path / 'mutants.tsv'}: 3 of 7 rows have no score: 1 insertion or deletion, "
        "1 stop codon, 1 synonymous" in caplog.text
    )


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (
            "mutant\nA26G\nM24L\n",
            [],
            "row 1: A26G: position 26; expected 1 to 10; all letters agree with offset 24",
        ),
        (
            "mutant\nM1L\nA2G\n",
            [],
            "row 2: A2G: the wild type has K at 2; expected A",
        ),
        (
            "mutant\nM1L\n\n5.1\n",
            [],
            "row 2: 5.1: expected A12G, A12G:L30P, p.Ala12Gly, or a sequence as long as the wild "
            "type",
        ),
        (
            "name,score\nM1L,2\n",
            [],
            "has the columns name, score; expected one of variants: mutant, mutation, mutations, "
            "variant, hgvs_pro, hgvs, mutated_sequence, or its name as --column",
        ),
        (
            "name,score\nM1L,2\n",
            ["--column", "Change"],
            "has the columns name, score; expected one of variants: change",
        ),
        ("mutant\n", [], "no variant can be scored"),
        (
            "",
            [],
            "has the columns none; expected one of variants: mutant, mutation, mutations, "
            "variant, hgvs_pro, hgvs, mutated_sequence, or its name as --column",
        ),
    ],
)
def test_what_cannot_be_scored_is_told(
    table: str,
    options: list[str],
    message: str,
    model: Path,
    wild_type: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mutants = tmp_path / "mutants.csv"
    mutants.write_text(table)
    output = tmp_path / "out"
    found = refused(capsys, "variants", model, wild_type, mutants, "--output", output, *options)
    assert found == f"{mutants}: {message}"
    assert not output.exists()


def test_a_table_or_all_and_one_wild_type_are_expected(
    model: Path, wild_type: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output: list[str | Path] = ["--output", tmp_path / "out"]
    expected = "MUTANTS: expected a table of variants, or --all in its place"
    assert refused(capsys, "variants", model, wild_type, *output) == expected
    assert refused(capsys, "variants", model, wild_type, wild_type, "--all", *output) == expected
    two = write_fasta(tmp_path / "two.fasta", ["MK", "MA"])
    message = refused(capsys, "variants", model, two, "--all", *output)
    assert message == f"{two}: 2 records; expected one, the wild type"


def test_without_single_mutations_there_is_no_heat_map(
    model: Path, wild_type: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "mutants.csv").write_text("change\nM1L:A3G\n")
    score_variant_table(
        model, wild_type, tmp_path / "out", mutants=tmp_path / "mutants.csv", column="Change"
    )
    assert not (tmp_path / "out" / "heat_map.svg").exists()
    assert "heat_map.svg: not drawn, as no variant has a single mutation" in caplog.text


def killed(model: Path, folder: Path, moments: int, convention: Convention) -> None:
    wild_type = str(write_fasta(folder / "wild_type.fasta", [WILD_TYPE]))

    def job(output: Path) -> None:
        score_variant_table(
            model,
            wild_type,
            output,
            all_single=True,
            convention=convention,
            batch_tokens=2,
            part_seconds=0,
        )

    def content(output: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in output.iterdir()}

    check_kills(job, folder, moments, content)


def test_a_killed_job_ends_with_the_same_bytes(model: Path, tmp_path: Path) -> None:
    killed(model, tmp_path, 3, "masked-marginals")


@pytest.mark.slow
@pytest.mark.parametrize("convention", ["masked-marginals-joint", "wildtype-marginals"])
def test_jobs_killed_at_ten_moments(convention: Convention, model: Path, tmp_path: Path) -> None:
    killed(model, tmp_path, 10, convention)
