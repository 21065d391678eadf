import json
import math
import os
from contextlib import closing
from pathlib import Path
from typing import get_args

import pytest

from esm1b.errors import UserError
from esm1b.files import (
    JsonLines,
    OutputKind,
    atomic_directory,
    atomic_file,
    check_replaceable,
    read_json,
    read_json_lines,
    sha256_file,
    write_json,
)


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def fail_within_file(path: Path) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError("halfway")


def fail_within_directory(path: Path) -> None:
    with atomic_directory(path, "corpus") as temporary:
        (temporary / "manifest.json").write_text("new")
        raise RuntimeError("halfway")


def test_file_is_written_and_its_folders_made(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a" / "b.txt") as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "a" / "b.txt").exists()
    assert (tmp_path / "a" / "b.txt").read_text() == "new"
    assert listing(tmp_path) == ["a", "a/b.txt"]


def test_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "b.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="halfway"):
        fail_within_file(path)
    assert path.read_text() == "old"
    assert listing(tmp_path) == ["b.txt"]


def test_error_without_an_old_file_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="halfway"):
        fail_within_file(tmp_path / "b.txt")
    assert listing(tmp_path) == []


def test_file_replaces_the_rest_of_a_killed_write(tmp_path: Path) -> None:
    (tmp_path / ".b.txt.partial").write_text("left by a kill")
    with atomic_file(tmp_path / "b.txt") as temporary:
        assert not temporary.exists()
        temporary.write_text("new")
    assert listing(tmp_path) == ["b.txt"]


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
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "left by a kill").write_text("")
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
        ("n" * 250, ".", "File name too long"),
    ],
)
def test_what_cannot_be_made_is_refused(name: str, place: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(UserError) as caught:
        check_replaceable(tmp_path / name, "model")
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


def test_json_has_fixed_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, 2.5, None], "a": "é"})
    expected = '{\n  "b": [\n    1,\n    2.5,\n    null\n  ],\n  "a": "é"\n}\n'
    assert path.read_bytes() == expected.encode()
    assert read_json(path) == {"b": [1, 2.5, None], "a": "é"}
    digest = "c3c957e54124283e5a2b46bd162fc4a689b0f52a3b81350be54cf654fed065df"
    assert sha256_file(path) == digest


def test_json_without_a_number_is_not_written(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": math.nan})
    assert json.loads((tmp_path / "a.json").read_text()) == 1
    assert listing(tmp_path) == ["a.json"]


def test_reading_json_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_json(tmp_path / "none.json")
    assert str(caught.value) == f"{tmp_path / 'none.json'}: No such file or directory"
    (tmp_path / "torn.json").write_text('{"a": ')
    with pytest.raises(UserError) as caught:
        read_json(tmp_path / "torn.json")
    assert str(caught.value) == (
        f"{tmp_path / 'torn.json'}: expected JSON: Expecting value: line 1 column 7 (char 6)"
    )
    (tmp_path / "twice.json").write_text('{"a": {"b": 1, "c": 2, "b": 3}}')
    with pytest.raises(UserError, match="expected JSON: b: given twice; expected once"):
        read_json(tmp_path / "twice.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="expected JSON"):
        read_json(tmp_path / "binary.json")


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


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (
        pytest.raises(UserError, match="not a regular file; expected a file to write"),
        atomic_file(tmp_path / "pipe"),
    ):
        pass


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    with atomic_file(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


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


def test_lines_are_added(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    with closing(JsonLines(path)) as lines:
        lines.write({"update": 1, "loss": 3.5})
        lines.write({"note": "no update"})
    with closing(JsonLines(path)) as lines:
        lines.write({"update": 2, "loss": None})
        lines.sync()
    assert path.read_text() == (
        '{"update": 1, "loss": 3.5}\n{"note": "no update"}\n{"update": 2, "loss": null}\n'
    )
    assert read_json_lines(path, having="update") == [
        {"update": 1, "loss": 3.5},
        {"update": 2, "loss": None},
    ]


@pytest.mark.parametrize("cut", range(1, 16))
def test_a_line_cut_short_costs_itself_alone(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"update": 1}\n' + '{"update": 2}\n'[:cut])
    with closing(JsonLines(path)) as lines:
        lines.write({"update": 3})
    numbers = [line["update"] for line in read_json_lines(path, having="update")]
    assert numbers == ([1, 2, 3] if cut >= 13 else [1, 3])


def test_what_is_no_object_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'[1]\n\n\xff\xfe\n"update"\n{"update": 1}\n')
    assert read_json_lines(path, having="update") == [{"update": 1}]


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json_lines(tmp_path / "none.jsonl", having="update")
