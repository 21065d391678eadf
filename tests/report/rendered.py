"""The page of a run as tests read it: its tables as lists of texts."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from esm1b.report.page import write_report
from tests.report import examples


def render_page(
    directory: Path,
    *contents: Mapping[str, Any],
    audit: Mapping[str, Any] | None = None,
    **manifest: Any,
) -> str:
    """Return the page with these evaluations, an audit and changed facts of the corpus."""
    model, corpus, training = examples.write_run(directory)
    (corpus / "manifest.json").write_text(json.dumps({**examples.MANIFEST, **manifest}))
    path = directory / "audit.json"
    path.write_text(json.dumps(audit))
    write_report(
        model,
        corpus=corpus,
        training=training,
        evaluations=[
            examples.write_evaluation(directory / str(content["evaluation"]), content)
            for content in contents
        ],
        output=directory / "out",
        audit=None if audit is None else path,
    )
    return (directory / "out/index.html").read_text()


def tables_of(page: str, corner: str) -> list[ElementTree.Element]:
    """Return the tables with this word in their corner."""
    found = [ElementTree.fromstring(each) for each in re.findall(r"(?s)<table>.*?</table>", page)]
    return [table for table in found if table.findtext("thead/tr/th") == corner]


def rows_of(table: ElementTree.Element) -> list[list[str]]:
    """Return the texts of the rows, the head first; an interval follows its number."""
    return [[" ".join(cell.itertext()) for cell in row] for row in table.iter("tr")]


def strong_rows(table: ElementTree.Element) -> list[str]:
    """Return the labels of the rows that stand out."""
    return [row[0].text or "" for row in table.iter("tr") if row.get("class") == "strong"]
