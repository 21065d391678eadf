import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import get_args

import pytest

from esm1b.errors import OutputError, UserError
from esm1b.outputs import (
    OutputKind,
    atomic_directory,
    atomic_files,
    check_replaceable,
    own_contents,
    own_output,
)


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def fail_within_directory(path: Path) -> None:
    with atomic_directory(path, "corpus") as temporary:
        (temporary / "manifest.json").write_text("new")
        raise RuntimeError("halfway")


def test_directory_is_written(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "a" / "out", "corpus") as temporary:
        (temporary / "part").mkdir()
        (temporary / "part" / "1").write_text("one")
        (temporary / "manifest.json").write_text("{}")
        assert not (tmp_path / "a" / "out").exists()
    assert listing(tmp_path) == [
        "a",
        "a/out",
        "a/out/.esm1b",
        "a/out/manifest.json",
        "a/out/part",
        "a/out/part/1",
    ]


def test_error_leaves_the_old_directory(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".esm1b").write_text("corpus\n")
    (out / "manifest.json").write_text("old")
    with pytest.raises(RuntimeError, match="halfway"):
        fail_within_directory(out)
    assert (out / "manifest.json").read_text() == "old"
    assert listing(tmp_path) == ["out", "out/.esm1b", "out/manifest.json"]


def test_directory_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text("old")
    (out / ".esm1b").write_text("corpus\n")
    (out / "of an earlier run").write_text("")
    for name in (".out.partial", ".out~0123abcd.partial"):  # of an earlier version, and of this
        (tmp_path / name).mkdir()
        (tmp_path / name / "left by a kill").write_text("")
    with atomic_directory(out, "corpus") as temporary:
        assert listing(temporary) == []
        (temporary / "manifest.json").write_text("new")
    assert (out / "manifest.json").read_text() == "new"
    assert (out / ".esm1b").read_text() == "corpus\n"
    assert listing(tmp_path) == ["out", "out/.esm1b", "out/manifest.json"]


def test_empty_directory_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with atomic_directory(tmp_path / "out", "corpus") as temporary:
        (temporary / "manifest.json").write_text("{}")
    assert listing(tmp_path) == ["out", "out/.esm1b", "out/manifest.json"]


def test_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError) as caught, atomic_directory(out, "model"):
        pass
    assert str(caught.value) == (
        f"{out}: holds files but no .esm1b, so it is not an earlier output of esm1b; "
        "expected a new directory or an earlier output of kind model"
    )
    assert listing(tmp_path) == ["out", "out/thesis.tex"]


@pytest.mark.parametrize("kind", get_args(OutputKind))
def test_directory_of_another_kind_is_refused(kind: OutputKind, tmp_path: Path) -> None:
    out = tmp_path / "out"
    other: OutputKind = "tokens" if kind == "corpus" else "corpus"
    with atomic_directory(out, other) as temporary:
        (temporary / "manifest.json").write_text("precious")
    with pytest.raises(UserError) as caught, atomic_directory(out, kind):
        pass
    assert str(caught.value) == (
        f"{out}: is an output of another kind, {other}; "
        f"expected a new directory or an earlier output of kind {kind}"
    )
    assert (out / "manifest.json").read_text() == "precious"
    assert listing(tmp_path) == ["out", "out/.esm1b", "out/manifest.json"]


@pytest.mark.parametrize("content", [b"", b"\xff\n"], ids=["of earlier versions", "damaged"])
def test_directory_of_unknown_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / ".esm1b").write_bytes(content)
    (tmp_path / "manifest.json").write_text("precious")
    with pytest.raises(UserError) as caught:
        check_replaceable(tmp_path, "tokens")
    assert str(caught.value) == (
        f"{tmp_path}: its .esm1b names no known kind, as in outputs of earlier versions; "
        "remove the directory if you do not need it; expected a new directory or "
        "an earlier output of kind tokens"
    )


def test_directory_with_nothing_to_lose_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out" / "train").mkdir(parents=True)
    (tmp_path / "out" / ".esm1b").touch()
    with atomic_directory(tmp_path / "out", "corpus"):
        pass
    assert listing(tmp_path) == ["out", "out/.esm1b"]
    assert (tmp_path / "out" / ".esm1b").read_text() == "corpus\n"


@pytest.mark.parametrize(
    ("name", "place", "reason"),
    [
        ("file/parent/out", "file", "Not a directory"),
        ("n" * 238, ".", "File name too long"),
    ],
)
def test_what_cannot_be_made_is_refused(name: str, place: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(UserError) as caught, own_output(tmp_path / name):
        pass
    assert str(caught.value) == (
        f"{tmp_path / name}: cannot be created in {tmp_path / place}: {reason}; "
        "expected a writable directory"
    )
    assert listing(tmp_path) == ["file"]


def test_the_check_leaves_nothing(tmp_path: Path) -> None:
    check_replaceable(tmp_path / "new" / "model", "model")
    assert listing(tmp_path) == []


def test_a_mount_point_is_refused() -> None:
    with pytest.raises(UserError, match=r"^/: is a mount point, which cannot be replaced; expect"):
        check_replaceable(Path("/"), "model")


def test_file_in_place_of_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError) as caught, atomic_directory(tmp_path / "out", "model"):
        pass
    assert str(caught.value) == f"{tmp_path / 'out'}: is a file; expected a directory to write to"
    assert (tmp_path / "out").read_text() == "a file"


def test_a_directory_of_empty_directories_is_taken(tmp_path: Path) -> None:
    (tmp_path / "report" / "figures").mkdir(parents=True)
    with atomic_directory(tmp_path / "report", "report") as temporary:
        (temporary / "index.html").write_text("page")
    assert listing(tmp_path / "report") == [".esm1b", "index.html"]


def test_an_output_that_holds_an_input_is_refused(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "model", "model") as directory:
        (directory / "weights").write_text("precious")
    for source in (tmp_path / "model", tmp_path / "model" / "weights"):
        with (
            pytest.raises(UserError, match="replacing it would remove the input"),
            atomic_directory(tmp_path / "model", "model", [source]),
        ):
            pass
    assert (tmp_path / "model" / "weights").read_text() == "precious"
    with atomic_directory(tmp_path / "other", "model", [tmp_path / "model"]):
        pass


def test_a_directory_behind_a_symbolic_link_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    for content in ("old", "new"):
        with atomic_directory(tmp_path / "link", "model") as directory:
            (directory / "weights").write_text(content)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target" / "weights").read_text() == "new"
    assert listing(tmp_path) == ["link", "target", "target/.esm1b", "target/weights"]


def test_the_working_directory_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path / "model")
    with atomic_directory(Path("."), "model") as directory:
        (directory / "weights").write_text("new")
    assert listing(tmp_path) == ["model", "model/.esm1b", "model/weights"]


def test_the_same_output_by_another_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("out")
    refused = rf": another process is writing it \(process {os.getpid()} on .+\); expected to be"
    with own_output(tmp_path / "out"):
        for name in ("out", "a/../out", "link"):
            with pytest.raises(UserError, match=refused), own_output(tmp_path / name):
                pytest.fail("two own it")
        with own_output(tmp_path / "out2"), own_output(tmp_path / "a" / "out"):
            pass
    assert listing(tmp_path) == ["a", "link"]


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "out", "corpus") as directory:
        (directory / "first").touch()
        with pytest.raises(UserError, match="another process"), own_output(tmp_path / "out"):
            pass
        # another output, whose name begins alike
        with own_output(tmp_path / "out.parquet"), own_output(tmp_path / "ou"):
            pass
    assert listing(tmp_path) == ["out", "out/.esm1b", "out/first"]


def test_files_that_belong_together(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_text("old")
    with atomic_files(tmp_path / "a.pt", tmp_path / "b.pt") as (a, b):
        a.write_text("new a")
        b.write_text("new b")
        assert (tmp_path / "a.pt").read_text() == "old"
    assert (tmp_path / "a.pt").read_text() == "new a"
    assert (tmp_path / "b.pt").read_text() == "new b"
    assert listing(tmp_path) == ["a.pt", "b.pt"]


def remove(path: Path) -> None:
    with atomic_directory(path, "model") as directory:
        shutil.rmtree(directory)
        (directory / "weights").write_text("new")


def remove_a_file(path: Path) -> None:
    with atomic_directory(path, "model") as directory:
        (directory / "weights").read_text()


def test_a_temporary_directory_that_is_gone_is_no_mistake_of_the_user(tmp_path: Path) -> None:
    name = r"/\.out~[0-9a-f]{8}\.partial"
    with pytest.raises(OutputError, match=f"{name}: removed by another program while it was writ"):
        remove(tmp_path / "out")
    with pytest.raises(OutputError, match=f"{name}/weights: removed by another program while it"):
        remove_a_file(tmp_path / "out")
    with (
        pytest.raises(FileNotFoundError, match="input of the user"),
        atomic_directory(tmp_path / "out", "model"),
    ):
        (tmp_path / "input of the user").read_text()
    assert listing(tmp_path) == []


def put_a_thesis_there(path: Path) -> None:
    with atomic_directory(path, "model"):
        path.mkdir()
        (path / "thesis.tex").touch()


def test_what_somebody_puts_there_meanwhile_is_not_lost(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds files but no \.esm1b"):
        put_a_thesis_there(tmp_path / "out")
    assert listing(tmp_path) == ["out", "out/thesis.tex"]


def test_without_locks_results_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with atomic_directory(tmp_path / "out", "model") as first:
        (first / "weights").write_text("first")
        with atomic_directory(tmp_path / "out", "model") as second:
            (second / "weights").write_text("second")
        assert (tmp_path / "out" / "weights").read_text() == "second"
    assert (tmp_path / "out" / "weights").read_text() == "first"
    assert listing(tmp_path) == ["out", "out/.esm1b", "out/weights"]


def test_contents_are_owned_by_one_process(tmp_path: Path) -> None:
    for name in (".run.json.partial", ".run.json~0123abcd.partial"):
        (tmp_path / name).touch()
    (tmp_path / ".update-00000002.partial").mkdir()
    (tmp_path / "uniref50.fasta.gz.partial").touch()
    (tmp_path / ".hidden").touch()
    with own_contents(tmp_path, lock=".lock", doing="downloads to it"):
        with (
            pytest.raises(UserError, match="another process downloads to it"),
            own_contents(tmp_path, lock=".lock", doing="downloads to it"),
        ):
            pass
        assert (tmp_path / ".lock").exists()
    assert listing(tmp_path) == [".hidden", ".update-00000002.partial", "uniref50.fasta.gz.partial"]


def test_folders_are_left_only_with_an_output(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="halfway"):
        fail_within_directory(tmp_path / "a" / "b" / "out")
    assert listing(tmp_path) == []
    (tmp_path / "a").mkdir()
    with pytest.raises(RuntimeError, match="halfway"):
        fail_within_directory(tmp_path / "a" / "b" / "out")
    assert listing(tmp_path) == ["a"]
