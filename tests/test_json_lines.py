from contextlib import closing
from pathlib import Path

import pytest

from esm1b.json_lines import JsonLines, read_json_lines


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
