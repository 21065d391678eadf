import copy
from typing import Any

from esm1b.report.corpus_section import corpus_section
from esm1b.report.tables import Table
from tests.report import examples


def rows(table: Table) -> list[list[str]]:
    return [[row.label, *(cell.text for cell in row.cells)] for row in table.rows]


def manifest(**changed: Any) -> dict[str, Any]:
    return {**copy.deepcopy(dict(examples.MANIFEST)), **changed}


def test_records_by_step() -> None:
    steps = corpus_section(manifest())["steps"]
    assert rows(steps) == [
        ["read", "103", "100 %"],
        ["id of another record", "\N{MINUS SIGN}3", "2.91 %"],
        ["kept", "100", "97.1 %"],
    ]
    assert [row.strong for row in steps.rows] == [False, False, True]


def test_shares_too_small_to_print() -> None:
    counts = {"read": 10**8, "kept": 10**8 - 1, "dropped": {"empty_sequence": 1}}
    steps = corpus_section(manifest(counts=counts))["steps"]
    assert rows(steps)[1] == ["without a sequence", "\N{MINUS SIGN}1", "< 0.01 %"]


def test_splits() -> None:
    splits = corpus_section(manifest())["splits"]
    assert rows(splits) == [
        ["training", "90", "900", "10.0"],
        ["validation", "10", "100", "10.0"],
    ]


def test_source_and_rule_of_the_split() -> None:
    section = corpus_section(manifest())
    assert section["source"] == "tiny.fasta"
    assert section["split"] == "10 % of the sequences, by a keyed hash of the sequence"
    assert section["selection"] == "all that fit"
    assert section["warning"] is None


def test_a_release_that_is_not_whole_is_said() -> None:
    section = corpus_section(manifest(source={"name": "UniRef50", "release": "2018_03"}))
    assert section["source"] == "UniRef50 2018_03"
    assert section["warning"].startswith("103 records were read of UniRef50 2018_03, which ")
