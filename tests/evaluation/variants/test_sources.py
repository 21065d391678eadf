import gzip
import logging
from pathlib import Path

import pytest

from esm1b.errors import UserError
from esm1b.evaluation.variants.assays import Columns, read_assay
from esm1b.evaluation.variants.sources import find_assays

REFERENCE = (
    "DMS_id,DMS_filename,UniProt_ID,target_seq,DMS_binarization_cutoff,coarse_selection_type\n"
    "A_2020,A_2020.csv,A_HUMAN,MKT,1.5,Stability\n"
    "B_2021,B_2021.csv,B_HUMAN,mkv,,Activity\n"
)
ASSAY = "mutant,mutated_sequence,DMS_score\nM1A,AKT,1\nM1C,CKT,2\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "proteingym"
    (folder / "deeper").mkdir(parents=True)
    (folder / "reference.csv").write_text(REFERENCE)
    (folder / "deeper" / "A_2020.csv").write_text(ASSAY)
    (folder / "B_2021.csv.gz").write_bytes(gzip.compress(ASSAY.encode()))
    return folder


def test_a_proteingym_folder_has_its_facts_in_the_reference_file(folder: Path) -> None:
    first, second = find_assays(folder, Columns())
    assert (first.name, first.protein, first.category) == ("A_2020", "A_HUMAN", "Stability")
    assert (first.wild_type, first.cutoff, first.kind) == ("MKT", 1.5, None)
    assert (second.wild_type, second.cutoff) == ("MKV", None)
    fit = read_assay(first, Columns()).fit
    assert fit is not None
    assert fit.tolist() == [False, True]
    assert read_assay(second, Columns()).measured.tolist() == [1, 2]


def test_the_reference_file_may_lie_elsewhere(folder: Path, tmp_path: Path) -> None:
    reference = (folder / "reference.csv").rename(tmp_path / "DMS_substitutions.csv")
    assert len(find_assays(folder, Columns(), reference=reference)) == 2
    message = "holds 0 tables with a column DMS_filename; expected one, such as ProteinGym's"
    with pytest.raises(UserError, match=message):
        find_assays(folder, Columns())
    for name in ("one.csv", "two.csv"):
        (folder / name).write_text(REFERENCE)
    with pytest.raises(UserError, match=r"holds 2 tables .*: one.csv, two.csv; expected one"):
        find_assays(folder, Columns())


def test_missing_files_are_named_and_counted(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "B_2021.csv.gz").unlink()
    with caplog.at_level(logging.WARNING):
        (source,) = find_assays(folder, Columns())
    assert source.name == "A_2020"
    assert caplog.messages == [
        f"{folder}: 1 of the 2 files of reference.csv are missing: B_2021.csv"
    ]
    (folder / "deeper" / "A_2020.csv").unlink()
    with pytest.raises(UserError, match=r"2 of the 2 files .* are missing: A_2020.csv, B_2021.csv"):
        find_assays(folder, Columns())


def test_a_table_may_have_several_wild_types(tmp_path: Path) -> None:
    path = tmp_path / "assays.tsv"
    path.write_text(
        "assay\tprotein\twild_type\tkind\tmutant\tscore\n"
        "one\tp\tMKT\ttest\tM1A\t1\n"
        "two\tp\tVRQ\tunseen\tV1A\t1\n"
        "one\tp\tMKT\ttest\tK2A\t2\n"
        "two\tp\tVRQ\tunseen\tR2A\t2\n"
    )
    one, two = find_assays(path, Columns())
    assert (one.name, one.protein, one.kind, one.wild_type) == ("one", "p", "test", "MKT")
    assert (two.name, two.protein, two.kind, two.wild_type) == ("two", "p", "unseen", "VRQ")
    assert [v.short_name() for v in read_assay(two, Columns()).variants] == ["V1A", "R2A"]


def test_a_table_without_names_is_one_assay_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "assay.csv"
    path.write_text("wild_type,mutant,score\nMKT,M1A,1\nMKT,M1C,2\n")
    (source,) = find_assays(path, Columns())
    assert (source.name, source.protein) == ("assay.csv", "assay.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mutant,score\nM1A,1\n", "has no column wild_type; expected one, or --wild-type FASTA"),
        (
            "wild_type,mutant,score\nMKT,M1A,1\nMKV,M1C,1\n",
            "wild_type is MKT and MKV in different rows; expected one",
        ),
        (
            "wild_type,mutant,score\nMK1,M1A,1\n",
            "wild type: '1' at position 3 of the sequence; expected the letters A to Z",
        ),
        ("wild_type,mutant,score\n,M1A,1\n", "wild type: has no sequence; expected residues"),
        (
            "wild_type,kind,mutant,score\nMKT,fit,M1A,1\n",
            "kind is 'fit'; expected test or unseen",
        ),
    ],
)
def test_facts_that_are_wrong_are_told(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "assay.csv"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        find_assays(path, Columns())
    assert str(error.value) == f"{path}: {message}"


def test_options_that_do_not_fit_the_data_are_refused(folder: Path, tmp_path: Path) -> None:
    table, fasta = tmp_path / "assay.csv", tmp_path / "two.fasta"
    table.write_text("mutant,score\nM1A,1\n")
    fasta.write_text(">a\nMKT\n>b\nMKV\n")
    with pytest.raises(UserError, match=r"--reference: .* is a file; expected a folder of assays"):
        find_assays(table, Columns(), reference=folder / "reference.csv")
    with pytest.raises(
        UserError, match=r"--wild-type: .* is a folder; its reference file has them"
    ):
        find_assays(folder, Columns(), wild_type=fasta)
    with pytest.raises(UserError, match=r"two.fasta: 2 records; expected one, the wild type"):
        find_assays(table, Columns(), wild_type=fasta)
    with pytest.raises(UserError, match=r"lacks the columns dms_id, dms_filename, target_seq"):
        find_assays(folder, Columns(), reference=table)
