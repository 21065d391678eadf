from pathlib import Path

import pytest

from esm1b.config import load_config
from esm1b.config_file import read_config_file
from esm1b.errors import UserError


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", None),
        (b"run: a\n", {"run": "a"}),
        (b"\xef\xbb\xbfrun: a\r\nseed: 2\r\n", {"run": "a", "seed": 2}),
        (b'{\n\t"run": "a",\n\t"model": {"layers": 3}\n}\n', {"run": "a", "model": {"layers": 3}}),
        (b"run: 2024-13-15", {"run": "2024-13-15"}),
        (
            b"a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}\n",
            {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}},
        ),
        (
            b"a: &x {b: 1}\nd: &y {<<: *x, b: 2}\ne: {<<: [*x, *y]}\n",
            {"a": {"b": 1}, "d": {"b": 2}, "e": {"b": 1}},
        ),
        (
            b"model: {layers: 1}\npretraining: {layers: 1}\n",
            {"model": {"layers": 1}} | {"pretraining": {"layers": 1}},
        ),
    ],
)
def test_what_is_read(tmp_path: Path, content: bytes, expected: object) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    assert read_config_file(path) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"run: d\nmodel: {layers: 6}\nseed: 1\nmodel: {maximum_tokens: 512}\n",
            "model: given twice, on lines 2 and 4; expected once",
        ),
        (
            b"model:\n  width: 6\n  'width': 6\n",
            "width: given twice, on lines 2 and 3; expected once",
        ),
        (b"model: {width: 6, width: 8}", "width: given twice, on lines 1 and 1; expected once"),
        (b'{"run": "a",\n\t"run": "b"}', "run: given twice, on lines 1 and 2; expected once"),
        (
            b"corpus:\n- {name: a, x: 1, name: b}",
            "name: given twice, on lines 2 and 2; expected once",
        ),
        (b"1: a\n1: b\n", "1: given twice, on lines 1 and 2; expected once"),
        (b"model:\n\twidth: 6\n", "expected YAML: line 2: found character '\\t' that cannot start"),
        (b"model: [1\nseed: 2", "expected YAML: line 2: "),
        (b"run: a\n---\nrun: b\n", "expected YAML: line 2: but found another document"),
        (b"run: *x\n", "expected YAML: line 1: found undefined alias 'x'"),
        (
            b"run: !!python/name:os.system x\n",
            "expected YAML: line 1: could not determine a constr",
        ),
        (b"seed: 0b_\n", "expected YAML: invalid literal for int() with base 2"),
        (b"run: a\0", "expected YAML: unacceptable character #x0000"),
        ("run: a".encode("utf-16"), "byte 1 is not UTF-8; expected YAML"),
        ("run: \u00e9".encode("latin-1"), "byte 6 is not UTF-8; expected YAML"),
        (b"[" * 5000, "expected YAML: "),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_config_file(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_a_path_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Is a directory"):
        read_config_file(tmp_path)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("'12'", 12.0), ("1_0", 10.0), ("+.5", 0.5), ("1E+2", 100.0)],
)
def test_numbers_that_yaml_takes_for_text(tmp_path: Path, text: str, value: float) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"pretraining: {{learning_rate: {text}, append_eos: yes, updates: '12'}}")
    recipe = load_config(path).pretraining
    assert (recipe.learning_rate, recipe.append_eos, recipe.updates) == (value, True, 12)
