import json
import math
import os
from contextlib import closing
from pathlib import Path

import pytest

from esm1b.errors import OutputError, UserError
from esm1b.files import (
    JsonLines,
    atomic_file,
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


def test_two_writers_of_a_file_have_names_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "b.txt"
    with atomic_file(path) as first:
        first.write_text("first")
        with atomic_file(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
        assert first.read_text() == "first"
    assert path.read_text() == "first"
    assert listing(tmp_path) == ["b.txt"]


def remove_before_the_end(path: Path) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        temporary.unlink()


def remove_the_folder(path: Path) -> None:
    with atomic_file(path) as temporary:
        path.parent.rmdir()
        temporary.write_text("new")


def test_a_temporary_file_that_is_gone_is_no_mistake_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"/\.b\.txt~[0-9a-f]{8}\.partial: removed by another"):
        remove_before_the_end(tmp_path / "b.txt")
    with pytest.raises(OutputError, match=r"/folder: removed by another program while it was wri"):
        remove_the_folder(tmp_path / "folder" / "b.txt")


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
