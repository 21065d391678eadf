import json
from pathlib import Path
from typing import Any

import pytest

from esm1b.errors import UserError
from esm1b.report.audit_section import audit_section, read_audit
from esm1b.report.page import write_report
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
    assert [(row.label, [cell.text for cell in row.cells]) for row in table.rows] == [
        ("2 times", ["59", "65.6 %"]),
        ("3 times", ["30", "33.3 %"]),
        ("10 times", ["1", "1.11 %"]),
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
        table = audit_section({**AUDIT, "skipped": [record]})["skipped"]
        return [[row.label, *(cell.text for cell in row.cells)] for row in table.rows]

    assert rows(SKIPPED) == [
        ["7", "6", "number 1, number 2, number 3, number 4, number 5 and 1 more"]
    ]
    named = {**SKIPPED, "sequences": [1, 2], "ids": ["UniRef50_A", "UniRef50_B"]}
    assert rows(named) == [["7", "2", "UniRef50_A, UniRef50_B"]]
    many = audit_section({**AUDIT, "skipped": [SKIPPED] * 52})["skipped"]
    assert (len(many.rows), many.notes) == (50, ["And 2 more, in audit.json."])


def test_the_page_tells_it(tmp_path: Path) -> None:
    page = page_with(tmp_path, AUDIT)
    assert "20 updates hold 2 whole epochs and the first 30 sequences of the next." in page
    assert "nothing was seen out of turn. No update was skipped." in page
    assert "<td>59</td><td>65.6 %</td>" in page


def test_the_page_names_skipped_updates_and_failures(tmp_path: Path) -> None:
    content = {**AUDIT, "skipped": [SKIPPED], "failures": ["epoch <2> is not whole"]}
    page = page_with(tmp_path, content)
    assert "These updates changed nothing" in page
    assert "number 5 and 1 more" in page
    assert '<p class="warning">The audit failed: epoch &lt;2&gt; is not whole.</p>' in page
    assert "out of turn" not in page


def test_without_an_audit_nothing_is_claimed(tmp_path: Path) -> None:
    assert "Sequences seen" not in page_with(tmp_path, None)


def test_an_audit_of_another_run_or_of_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    path.write_text(json.dumps({"updates": 20}))
    with pytest.raises(UserError, match=r"audit\.json: expected the audit\.json that audit wrote$"):
        read_audit(path, examples.MODEL)
    path.write_text(json.dumps({**AUDIT, "tokens_fingerprint": "0" * 64}))
    with pytest.raises(UserError, match=r"of a run on tokens 0{64}; expected f{64}, those of the"):
        read_audit(path, examples.MODEL)
    assert read_audit(path, {})["updates"] == 20
