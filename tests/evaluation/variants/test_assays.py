import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from esm1b.errors import UserError
from esm1b.evaluation.variants.assays import Assay, Columns, read_assay
from esm1b.evaluation.variants.sources import find_assays

WILD_TYPE = "MKTVRQGLAS"


def assay_of(path: Path, columns: Columns | None = None) -> Assay:
    columns = columns or Columns()
    fasta = path.parent / "wild_type.fasta"
    fasta.write_text(f">protein of ten residues\n{WILD_TYPE}\n")
    (source,) = find_assays(path, columns, wild_type=fasta)
    return read_assay(source, columns)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def names(assay: Assay) -> list[str]:
    return [variant.short_name() for variant in assay.variants]


@pytest.mark.parametrize(
    "text",
    [
        "mutant,DMS_score\nM1A,1.5\nK2A:T3V,-2\n",
        "variant\tnum_mutations\tscore\nM1A\t1\t1.5\nK2A,T3V\t2\t-2\n",
        "\ufeff;Mutations;Fitness\n0;M1A;1.5\n1;K2A;NaN\n2;T3V:K2A;-2\n",
        "hgvs_pro,score\np.Met1Ala,1.5\np.[Lys2Ala;Thr3Val],-2\n",
        "mutated_sequence,effect\nAKTVRQGLAS,1.5\nMAVVRQGLAS,-2\n",
        "mutant,mutated_sequence,DMS_score\nM1A,AKTVRQGLAS,1.5\nK2A:T3V,MAVVRQGLAS,-2\n",
    ],
)
def test_layouts_are_known_by_their_columns(text: str, tmp_path: Path) -> None:
    assay = assay_of(written(tmp_path / "assay.csv", text))
    assert names(assay) == ["M1A", "K2A:T3V"]
    assert assay.measured.tolist() == [1.5, -2]
    assert assay.mutations.tolist() == [1, 2]
    assert assay.positions.tolist() == [0, 1]


def test_parquet_has_the_same_rows(tmp_path: Path) -> None:
    table = {"Mutant": ["M1A", "K2A"], "score": [1.0, 2.0], "DMS_score_bin": [0, 1]}
    pq.write_table(pa.table(table), tmp_path / "assay.parquet")
    assay = assay_of(tmp_path / "assay.parquet")
    assert assay.measured.tolist() == [1, 2]
    assert assay.fit is not None
    assert assay.fit.tolist() == [False, True]


def test_columns_are_named_by_the_user(tmp_path: Path) -> None:
    text = "mutant,what,0,2500,other\nx,M1A,5,1,7\nx,K2A,6,2,8\n"
    columns = Columns(variant="What", score="2500", compared=("Other",))
    assay = assay_of(written(tmp_path / "assay.csv", text), columns)
    assert (names(assay), assay.measured.tolist()) == (["M1A", "K2A"], [1, 2])
    assert {name: values.tolist() for name, values in assay.compared.items()} == {"other": [7, 8]}


def test_residues_are_numbered_from_the_offset(tmp_path: Path) -> None:
    text = "mutant,score\nM126A,1\nK127A,2\n"
    assay = assay_of(written(tmp_path / "assay.csv", text), Columns(offset=126))
    assert assay.positions.tolist() == [0, 1]


def test_rows_that_cannot_be_scored_are_counted_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = {
        **{"M1A": "1", "K2A": "2", "M1A:K2A": "3"},
        **{"K2A:M1A": "4", "m1a": "5"},  # the same variants again
        **{"A1C": "1", "M11A": "1", "M1*": "1", "M1M": "1", "M1=": "1", "WT": "1"},
        **{"M1del": "1", "M1_K2insA": "1", "MKTVRQGLA": "1", "M1X": "1", "?": "1", "": "1"},
        **{"T3A": "NaN", "T3C": "", "T3D": "n/a", "T3E": "inf"},
    }
    text = "mutant,score\n" + "".join(f"{name},{score}\n" for name, score in rows.items())
    with caplog.at_level(logging.WARNING):
        assay = assay_of(written(tmp_path / "assay.csv", text))
    assert names(assay) == ["M1A", "K2A", "M1A:K2A"]
    assert assay.measured.tolist() == [1, 2, 3]
    assert assay.left_out == {
        "no measured value": 4,
        "synonymous": 3,
        "insertion or deletion": 3,
        "duplicate": 2,
        "unreadable": 2,
        "other wild type": 1,
        "position outside": 1,
        "stop codon": 1,
        "unknown residue": 1,
    }
    assert caplog.messages[-1].startswith(
        f"{tmp_path}/assay.csv: left out 18 of 21 rows: 4 no measured value, 3 synonymous"
    )


def test_a_row_without_another_prediction_is_left_out_for_all_models(tmp_path: Path) -> None:
    text = "mutant,score,vae\nM1A,1,\nK2A,2,0.5\nT3A,3,0.1\n"
    assay = assay_of(written(tmp_path / "assay.csv", text), Columns(compared=("vae",)))
    assert (names(assay), assay.left_out) == (["K2A", "T3A"], {"no other prediction": 1})


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        (
            "mutant,score,fitness\nM1A,1,2\n",
            {},
            "has the columns score, fitness; name one with --score-column",
        ),
        (
            "mutant,variant,score\nM1A,M1A,2\n",
            {},
            "has the columns mutant, variant; name one with --variant-column",
        ),
        (
            "mutant,0,2500\nM1A,1,2\n",
            {},
            "has no column dms_score, score, fitness or effect; name one of mutant, 0, 2500 with "
            "--score-column",
        ),
        (
            "name,score\nM1A,1\n",
            {},
            "has no column mutant, mutation, mutations, variant, hgvs_pro or hgvs; "
            "name one of name, score with --variant-column",
        ),
        ("mutant,score\nM1A,1\n", {"score": "5000"}, "has no column 5000; it has mutant, score"),
        (
            "mutant,score\nM1A,1\n",
            {"compared": ("vae",)},
            "has no column vae; it has mutant, score",
        ),
        ("mutant,score\n", {}, "has no rows; expected at least two variants"),
        (
            "mutant,score\nM1A,1\n",
            {},
            "1 of 1 rows can be used; expected at least two different measured effects",
        ),
        (
            "mutant,score\nM1A,3\nM1C,3\nM1D,3\n",
            {},
            "3 of 3 rows can be used; expected at least two different measured effects",
        ),
        (
            "mutant,score\nM1*,3\nM1M,4\n",
            {},
            "0 of 2 rows can be used; expected at least two different measured effects (first "
            "problem: M1*: ends the protein; expected a substitution)",
        ),
        (
            "mutant,score\nK25A,3\nR28A,4\nL31A,1\n",
            {},
            "wild-type letters disagree with the wild type at offset 1; all agree with --offset 24",
        ),
        (
            "mutant,score,DMS_score_bin\nM1A,3,0\nM1C,4,2\n",
            {},
            "dms_score_bin has other values than 0 and 1; expected one in each row",
        ),
    ],
)
def test_a_table_that_is_no_assay_is_told_in_one_line(
    text: str, columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "assay.csv", text)
    with pytest.raises(UserError) as error:
        assay_of(path, Columns(**columns))
    assert str(error.value) == f"{path}: {message}"


def test_fit_is_above_the_cutoff_where_rows_do_not_state_it(tmp_path: Path) -> None:
    text = (
        "assay,target_seq,DMS_binarization_cutoff,mutant,score\n"
        f"a,{WILD_TYPE},0.5,M1A,0.4\na,{WILD_TYPE},0.5,M1C,0.5\n"
    )
    (source,) = find_assays(written(tmp_path / "assay.csv", text), Columns())
    fit = read_assay(source, Columns()).fit
    assert fit is not None
    assert np.array_equal(fit, [False, True])
