"""The map in CONTRIBUTING.md is one of this repository."""

import re
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_figure_names_modules() -> None:
    (figure,) = re.findall(r"```mermaid\n(.*?)```", TEXT, re.DOTALL)
    modules = re.findall(r"\w+\[\"(.*?)\"\]", figure)
    assert len(modules) > 10
    assert [module for module in modules if find_spec(module) is None] == []
    folders = {module.split(".")[1] for module in modules}
    assert {"download", "corpus", "batches", "pretraining", "evaluation", "report"} <= folders


def test_every_folder_has_a_row() -> None:
    rows = re.findall(r"^\| `(\w+)/` \|", TEXT, re.MULTILINE)
    folders = {path.parent.name for path in (ROOT / "esm1b").glob("*/__init__.py")}
    assert folders | {"workflow", "benchmarks"} == set(rows)
    assert len(rows) == len(set(rows))
