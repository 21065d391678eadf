import json
import subprocess
from pathlib import Path

import pytest

from esm1b.errors import UserError
from esm1b.report.run_facts import configuration, git_commit, read_audit, run_facts
from esm1b.weights.model_directory import ModelDirectory
from tests.report import examples


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    done = subprocess.run(
        ["git", "-C", str(directory), *identity, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_commit_is_that_of_the_package_and_tells_changes(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "--quiet")
    assert git_commit(package) is None  # in a repository, but not of it: an installed package
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_commit(package) == commit
    (package / "__init__.py").write_text("changed = True\n")
    assert git_commit(package) == f"{commit}, with uncommitted changes"


def test_without_repository_there_is_no_commit(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None


def test_configuration_explains_its_keys() -> None:
    description = {"run": "tiny", "model": {"layers": 2}, "pretraining": {"append_eos": True}}
    assert list(configuration(description)) == [
        ("run", "tiny", ""),
        ("model.layers", "2", "number of transformer layers"),
        ("pretraining.append_eos", "true", "end each sequence with `<eos>`"),
    ]


def test_versions_are_in_one_line(tmp_path: Path) -> None:
    model = examples.write_run(tmp_path)[0]
    own = run_facts(ModelDirectory(model), examples.MANIFEST, examples.TRAINING)["facts"]
    assert own["Software"].startswith("python 3.")
    versions = {"python": "3.11.7", "torch": "2.13.0"}
    (model / "esm1b.json").write_text(json.dumps({**examples.MODEL, "versions": versions}))
    facts = run_facts(ModelDirectory(model), examples.MANIFEST, examples.TRAINING)["facts"]
    assert facts["Software"] == "python 3.11.7, torch 2.13.0"


def test_an_audit_of_another_run_or_of_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    path.write_text(json.dumps({"updates": 20}))
    with pytest.raises(UserError, match=r"audit\.json: expected the audit\.json that audit wrote$"):
        read_audit(path, examples.MODEL)
    path.write_text(json.dumps({**examples.AUDIT, "tokens_fingerprint": "0" * 64}))
    with pytest.raises(
        UserError, match=r"about a run on tokens 0{64}; expected f{64}, those of the"
    ):
        read_audit(path, examples.MODEL)
    assert read_audit(path, {})["updates"] == 20
