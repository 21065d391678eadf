import copy
import json
from pathlib import Path
from typing import Any

import pytest

from esm1b.errors import UserError
from esm1b.report.data_sections import audit_section, corpus_section, read_audit
from esm1b.report.page import write_report
from esm1b.report.tables import Table
from tests.report import examples

AUDIT: dict[str, Any] = {
    "tokens_fingerprint": "f" * 64,
    "updates": 20,
    "sequences": 90,
    "whole_epochs": 2,
    "sequences_of_epoch": 30,
    "times_seen": {"10": 1, "2": 59, "3": 30},
    "updates_compared": 20,
    "lines_compared": 4,
    "skipped": [],
    "failures": [],
}
SKIPPED = {"update": 7, "epochs": [0] * 6, "sequences": [1, 2, 3, 4, 5, 6]}


def rows_of(table: Table) -> list[list[str]]:
    return [[row.label, *(cell.text for cell in row.cells)] for row in table.rows]


def manifest(**changed: Any) -> dict[str, Any]:
    return {**copy.deepcopy(dict(examples.MANIFEST)), **changed}


def test_records_by_step() -> None:
    steps = corpus_section(manifest())["steps"]
    assert rows_of(steps) == [
        ["read", "103", "100 %"],
        ["id of another record", "\N{MINUS SIGN}3", "2.91 %"],
        ["kept", "100", "97.1 %"],
    ]
    assert [row.strong for row in steps.rows] == [False, False, True]


def test_shares_too_small_to_print() -> None:
    counts = {"read": 10**8, "kept": 10**8 - 1, "dropped": {"empty_sequence": 1}}
    steps = corpus_section(manifest(counts=counts))["steps"]
    assert rows_of(steps)[1] == ["without a sequence", "\N{MINUS SIGN}1", "< 0.01 %"]


def test_splits() -> None:
    splits = corpus_section(manifest())["splits"]
    assert rows_of(splits) == [
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


def page_with(tmp_path: Path, content: dict[str, Any] | None) -> str:
    model, corpus, training = examples.write_run(tmp_path)
    audit = None
    if content is not None:
        audit = tmp_path / "audit.json"
        audit.write_text(json.dumps(content))
    evaluation = examples.write_evaluation(tmp_path / "perplexity", examples.perplexity())
    write_report(
        model,
        corpus=corpus,
        training=training,
        evaluations=[evaluation],
        output=tmp_path / "out",
        audit=audit,
    )
    return (tmp_path / "out/index.html").read_text()


def test_how_often_sequences_were_seen() -> None:
    table = audit_section(AUDIT)["times"]
    assert rows_of(table) == [
        ["2 times", "59", "65.6 %"],
        ["3 times", "30", "33.3 %"],
        ["10 times", "1", "1.11 %"],
    ]
    once = audit_section({**AUDIT, "times_seen": {"1": 90}})["times"]
    assert [row.label for row in once.rows] == ["1 time"]


def test_what_was_compared() -> None:
    assert audit_section(AUDIT)["compared"] == "all updates one by one, and 4 lines of the log"
    part = audit_section({**AUDIT, "updates": 9000, "updates_compared": 256, "lines_compared": 0})
    assert part["compared"] == "256 updates one by one"


def test_skipped_updates_by_number_or_id() -> None:
    assert audit_section(AUDIT)["skipped"] is None

    def rows(record: dict[str, Any]) -> list[list[str]]:
        return rows_of(audit_section({**AUDIT, "skipped": [record]})["skipped"])

    assert rows(SKIPPED) == [
        ["7", "6", "number 1, number 2, number 3, number 4, number 5 and 1 more"]
    ]
    named = {**SKIPPED, "sequences": [1, 2], "ids": ["UniRef50_A", "UniRef50_B"]}
    assert rows(named) == [["7", "2", "UniRef50_A, UniRef50_B"]]
    many = audit_section({**AUDIT, "skipped": [SKIPPED] * 52})["skipped"]
    assert (len(many.rows), many.notes) == (50, ["And 2 more, in audit.json."])


@pytest.mark.usefixtures("undrawn")
def test_the_page_tells_it(tmp_path: Path) -> None:
    page = page_with(tmp_path, AUDIT)
    assert "20 updates cover 2 whole epochs and the first 30 sequences of the next." in page
    assert "nothing was seen out of turn. No update was skipped." in page
    assert "<td>59</td><td>65.6 %</td>" in page


@pytest.mark.usefixtures("undrawn")
def test_the_page_names_skipped_updates_and_failures(tmp_path: Path) -> None:
    content = {**AUDIT, "skipped": [SKIPPED], "failures": ["epoch <2> is not whole"]}
    page = page_with(tmp_path, content)
    assert "These updates changed nothing" in page
    assert "number 5 and 1 more" in page
    assert '<p class="warning">The audit failed: epoch &lt;2&gt; is not whole.</p>' in page
    assert "out of turn" not in page


@pytest.mark.usefixtures("undrawn")
def test_without_an_audit_nothing_is_claimed(tmp_path: Path) -> None:
    assert "Sequences seen" not in page_with(tmp_path, None)


def test_an_audit_of_another_run_or_of_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    path.write_text(json.dumps({"updates": 20}))
    with pytest.raises(UserError, match=r"audit\.json: expected the audit\.json that audit wrote$"):
        read_audit(path, examples.MODEL)
    path.write_text(json.dumps({**AUDIT, "tokens_fingerprint": "0" * 64}))
    with pytest.raises(
        UserError, match=r"about a run on tokens 0{64}; expected f{64}, those of the"
    ):
        read_audit(path, examples.MODEL)
    assert read_audit(path, {})["updates"] == 20
