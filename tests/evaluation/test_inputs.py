import shutil
import subprocess
from pathlib import Path

import pytest

from esm1b.errors import UserError
from esm1b.evaluation.inputs import content_digest, describe_inputs, files_of, folder_checksums
from esm1b.versions import versions
from esm1b.weights.model_directory import ModelDirectory

HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
WORLD = "486ea46224d1bb4fb680f34f7c9ad96a8f24ec88be73ea8e5a6c65260e9cb8a7"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files at two depths, and hidden ones at both."""
    (tmp_path / "st" / "deeper").mkdir(parents=True)
    (tmp_path / "st" / ".cache").mkdir()
    (tmp_path / "st" / "b.pdb").write_text("world")
    (tmp_path / "st" / "deeper" / "{1} é.cif").write_text("hello")
    (tmp_path / "st" / ".DS_Store").write_text("")
    (tmp_path / "st" / ".cache" / "c.pdb").write_text("")
    return tmp_path / "st"


@pytest.fixture
def model(tmp_path: Path) -> ModelDirectory:
    """A model directory without `esm1b.json`, as that of an ESM-2 is."""
    (tmp_path / "esm2_t6").mkdir()
    (tmp_path / "esm2_t6" / "config.json").write_text("hello")
    return ModelDirectory(tmp_path / "esm2_t6")


def test_hidden_files_are_left_out(folder: Path) -> None:
    assert files_of(folder) == [folder / "b.pdb", folder / "deeper" / "{1} é.cif"]
    assert files_of(folder / "b.pdb") == [folder / "b.pdb"]
    assert files_of(folder / "absent") == [folder / "absent"]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum")
def test_checksums_are_those_of_sha256sum(folder: Path) -> None:
    assert folder_checksums(folder).decode() == f"{WORLD}  b.pdb\n{HELLO}  deeper/{{1}} é.cif\n"
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict"],
        cwd=folder,
        input=folder_checksums(folder),
        capture_output=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def test_any_change_in_a_folder_is_another_digest(folder: Path) -> None:
    seen = {content_digest(folder)}
    (folder / ".DS_Store").write_text("seen by a file manager")
    assert content_digest(folder) in seen
    for change in (
        lambda: (folder / "deeper" / "{1} é.cif").write_text("hallo"),
        lambda: (folder / "deeper" / "new.pdb").write_text("hello"),
        lambda: (folder / "b.pdb").rename(folder / "c.pdb"),
        lambda: (folder / "c.pdb").unlink(),
        lambda: (folder / "chains.csv").write_text("file,chain\n"),
    ):
        change()
        assert content_digest(folder) not in seen
        seen.add(content_digest(folder))


def test_inputs_are_named_with_their_digests(
    folder: Path, model: ModelDirectory, tmp_path: Path
) -> None:
    inputs = describe_inputs(
        tmp_path, model, {"seed": 0}, data=folder, table=folder / "b.pdb", truth=None
    )
    assert inputs == {
        "model": {"name": "esm2_t6", "sha256": model.digest()},
        "data": {"name": "st", "files": 2, "sha256": content_digest(folder)},
        "table": {"name": "b.pdb", "sha256": WORLD},
        "versions": versions(),
        "options": {"seed": 0},
    }
    # the digest of the list is that of the folder
    assert content_digest(tmp_path / "inputs.sha256") == content_digest(folder)


def test_without_a_folder_there_is_no_list(
    folder: Path, model: ModelDirectory, tmp_path: Path
) -> None:
    describe_inputs(tmp_path, model, {}, table=folder / "b.pdb")
    assert not (tmp_path / "inputs.sha256").exists()


def test_a_file_that_vanished_is_told(model: ModelDirectory, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.csv: No such file or directory$"):
        describe_inputs(tmp_path, model, {}, data=tmp_path / "absent.csv")
