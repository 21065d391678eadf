from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import yaml

import esm1b
from esm1b.versions import versions


def test_a_source_tree_that_is_not_installed_has_its_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def installed(name: str) -> str:
        if name == "esm1b":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("esm1b.versions.version", installed)
    found = versions()
    assert esm1b.__version__ == version("esm1b")
    assert list(found) == ["python", "esm1b", "torch", "deepspeed"]
    assert found["esm1b"] == esm1b.__version__


def test_the_version_to_cite_is_this_one() -> None:
    citation = Path(__file__).parents[1] / "CITATION.cff"
    assert yaml.safe_load(citation.read_text())["version"] == esm1b.__version__
