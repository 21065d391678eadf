"""The sections on the corpus and the sequences seen."""

from pathlib import Path

import pytest

from tests.report import examples
from tests.report.examples import AUDIT
from tests.report.rendered import render_page, rows_of, strong_rows, tables_of

pytestmark = pytest.mark.usefixtures("undrawn")
MINUS = "\N{MINUS SIGN}"
SKIPPED = {"update": 7, "epochs": [0] * 6, "sequences": [1, 2, 3, 4, 5, 6]}


def test_the_corpus_by_step_and_split(tmp_path: Path) -> None:
    page = render_page(tmp_path, examples.perplexity())
    (steps,) = tables_of(page, "records")
    assert rows_of(steps) == [
        ["records", "number", "share"],
        ["read", "103", "100 %"],
        ["id of another record", f"{MINUS}3", "2.91 %"],
        ["kept", "100", "97.1 %"],
    ]
    assert strong_rows(steps) == ["kept"]
    (splits,) = tables_of(page, "split")
    assert rows_of(splits) == [
        ["split", "sequences", "residues", "mean length"],
        ["training", "90", "900", "10.0"],
        ["validation", "10", "100", "10.0"],
    ]
    rule = "10 % of the sequences, by a keyed hash of the sequence"
    assert f"<p>tiny.fasta. Selected: all valid records. Held out: {rule}.</p>" in page
    assert '<p class="warning">' not in page


def test_shares_too_small_to_print_and_an_empty_split(tmp_path: Path) -> None:
    counts = {"read": 10**8, "kept": 10**8 - 1, "dropped": {"empty_sequence": 1}}
    empty = {"train": 90, "validation": 0}
    page = render_page(tmp_path, counts=counts, sequences=empty, residues=empty)
    (steps,) = tables_of(page, "records")
    assert rows_of(steps)[2] == ["without a sequence", f"{MINUS}1", "< 0.01 %"]
    (splits,) = tables_of(page, "split")
    assert rows_of(splits)[2] == ["validation", "0", "0", "\N{EN DASH}"]


def test_a_release_that_is_not_whole_is_said(tmp_path: Path) -> None:
    page = render_page(tmp_path, source={"name": "UniRef50", "release": "2018_03"})
    assert "<p>UniRef50 2018_03. Selected" in page
    assert '<p class="warning">103 records were read of UniRef50 2018_03, which ' in page


def test_how_often_sequences_were_seen(tmp_path: Path) -> None:
    page = render_page(tmp_path / "several", audit=AUDIT)
    (times,) = tables_of(page, "seen")
    assert rows_of(times) == [
        ["seen", "training sequences", "share"],
        ["2 times", "59", "65.6 %"],
        ["3 times", "30", "33.3 %"],
        ["10 times", "1", "1.11 %"],
    ]
    assert "20 updates cover 2 whole epochs and the first 30 sequences of the next." in page
    assert "lines of the log match that order. No update was skipped." in page
    assert tables_of(page, "skipped update") == []
    once = render_page(tmp_path / "once", audit={**AUDIT, "times_seen": {"1": 90}})
    assert rows_of(tables_of(once, "seen")[0])[1] == ["1 time", "90", "100 %"]


def test_what_was_compared(tmp_path: Path) -> None:
    whole = render_page(tmp_path / "whole", audit=AUDIT)
    assert " All updates and 4 lines of the log match that order" in whole
    part = {**AUDIT, "updates": 9000, "updates_compared": 256, "lines_compared": 0}
    page = render_page(tmp_path / "part", audit=part)
    assert " 256 updates match that order" in page


def test_skipped_updates_by_number_or_id(tmp_path: Path) -> None:
    named = {**SKIPPED, "update": 8, "sequences": [1, 2], "ids": ["UniRef50_A", "UniRef50_B"]}
    page = render_page(tmp_path / "two", audit={**AUDIT, "skipped": [SKIPPED, named]})
    (skipped,) = tables_of(page, "skipped update")
    assert rows_of(skipped) == [
        ["skipped update", "sequences", "which"],
        ["7", "6", "number 1, number 2, number 3, number 4, number 5 and 1 more"],
        ["8", "2", "UniRef50_A, UniRef50_B"],
    ]
    many = render_page(tmp_path / "many", audit={**AUDIT, "skipped": [SKIPPED] * 52})
    assert len(rows_of(tables_of(many, "skipped update")[0])) == 1 + 50
    assert '<p class="note">And 2 more, in audit.json.</p>' in many
    assert "in audit.json" not in page


def test_the_page_names_skipped_updates_and_failures(tmp_path: Path) -> None:
    audit = {**AUDIT, "skipped": [SKIPPED], "failures": ["epoch <2> is not whole"]}
    page = render_page(tmp_path, audit=audit)
    assert "These updates changed nothing" in page
    assert '<p class="warning">The audit failed: epoch &lt;2&gt; is not whole.</p>' in page
    assert "out of turn" not in page


def test_without_an_audit_nothing_is_claimed(tmp_path: Path) -> None:
    assert "Sequences seen" not in render_page(tmp_path, examples.perplexity())
