import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from esm1b.config import load_config, parse_config
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
        (
            b"model:\n\twidth: 6\n",
            "expected YAML: line 2: while scanning for the next token, found character '\\t' that ",
        ),
        (b"model: [1\nseed: 2", "expected YAML: line 2: "),
        (
            b"run: a\n---\nrun: b\n",
            "expected YAML: line 2: expected a single document in the stream, but found another",
        ),
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
    path.write_text(f"pretraining: {{learning_rate: {text}, append_eos: yes, updates: 2e4}}")
    recipe = load_config(path).pretraining
    assert (recipe.learning_rate, recipe.append_eos, recipe.updates) == (value, True, 20_000)


@pytest.mark.parametrize("text", ["2.5e0", "1e-3", "1e999", "e", "1e"])
def test_a_count_is_whole(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"pretraining: {{updates: {text}}}")
    with pytest.raises(UserError, match=r"pretraining\.updates: "):
        load_config(path)


BASE: dict[str, Any] = {
    "run": "fuzzed",
    "seed": 7,
    "corpus": {"name": "mine", "sequences": ["a.fasta", "b.fasta"], "shards": 3, "strict": True},
    "model": {"layers": 3, "width": 48, "heads": 3},
    "pretraining": {"learning_rate": 4e-4, "precision": "bf16", "adam_betas": [0.9, 0.98]},
    "evaluation": {"contacts": {"regularisation": 0.15, "structures": "st"}},
}
# For each key, texts that mean the same as in BASE, and texts that mean something impossible.
SAME = {
    "seed": ["7", "'7'", "7.0", "0b111", "+7", "0x7", "!!int 7"],
    "corpus.shards": ["3", '"3"', "3.0"],
    "corpus.strict": ["yes", "on", "true", "TRUE", "'true'", "!!bool yes"],
    "model.layers": ["3", "0x3", "3.0"],
    "pretraining.learning_rate": ["4e-4", "4.0e-4", "0.0004", ".0004", "'4E-4'"],
    "corpus.sequences": ["[a.fasta, b.fasta]", "['a.fasta', \"b.fasta\"]", "[a.fasta, b.fasta, ]"],
    "corpus.name": ["mine", "'mine'", '"mine"', "!!str mine"],
    "pretraining.precision": ["bf16", "'bf16'"],
}
WRONG = {
    "run": [
        "2024_01",
        "1e5x/2",
        "null",
        "~",
        "0x10",
        "on",
        "12",
        "[a]",
        "{a: 1}",
        "../x",
        "a b",
        "",
    ],
    "seed": ["-1", "x", "1.5", "[1]", "yes", "null", "''"],
    "corpus.name": ["1_000", "no", "0.5", "a/b", ".inf", "'-x'"],
    "corpus.shards": ["0", "many", "null", "[3]", "true"],
    "corpus.strict": ["3", "maybe", "null", "[true]"],
    "corpus.sequences": ["{a: b}", "[1, 2]", "[[a]]", "7", "[null]"],
    "model.layers": ["0", "3.5", "three", "null", "{}", "on"],
    "pretraining.learning_rate": ["-1", "fast", ".nan", "0", "[1]", "4,5"],
    "pretraining.precision": ["fp8", "16", "null"],
    "pretraining.adam_betas": ["[0.9]", "[0.9, 2]", "0.9", "[0.9, 0.98, 1]"],
    "evaluation.contacts.structures": ["7", "[st]", "yes"],
}


def _yaml(
    draw: random.Random, values: dict[str, Any], texts: dict[str, str], prefix: str = ""
) -> str:
    """Return a section as block YAML with the keys in any order."""
    indent = "  " * prefix.count(".")
    lines = []
    for name in draw.sample(list(values), len(values)):
        key, value = f"{prefix}{name}", values[name]
        written = draw.choice([name, name, f"'{name}'", f'"{name}"'])
        comment = draw.choice(["", "", "  # why"])
        if isinstance(value, dict):
            lines += [f"{indent}{written}:{comment}", _yaml(draw, value, texts, f"{key}.")]
        else:
            text = texts.get(key, json.dumps(value))
            lines.append(f"{indent}{written}: {text}{comment}")
        lines += draw.choice([[], [], [""], [f"{indent}# more"]])
    return "\n".join(lines)


@pytest.mark.parametrize("count", [100, pytest.param(3_000, marks=pytest.mark.slow)])
def test_any_configuration_is_used_or_told(tmp_path: Path, count: int) -> None:
    draw = random.Random(2)
    path = tmp_path / "run.yaml"
    expected = parse_config(BASE, origin="base")
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        texts = {key: draw.choice(SAME[key]) for key in draw.sample(list(SAME), 4)}
        change = draw.choice(["none", "none", "value", "twice", "renamed", "form", "encoding"])
        culprit, encoding = "", draw.choice(["utf-8", "utf-8", "utf-8-sig"])
        if change == "value":
            culprit = draw.choice(list(WRONG))
            texts[culprit] = draw.choice(WRONG[culprit])
        text = _yaml(draw, BASE, texts)
        lines = text.split("\n")
        keyed = [
            n for n, line in enumerate(lines) if ":" in line and not line.strip().startswith("#")
        ]
        line = lines[draw.choice(keyed)]
        name = line.split(":")[0].strip().strip("'\"")
        if change == "twice":
            culprit = name
            section = draw.choice([line, f"{line.split(':')[0]}: {{}}"])
            lines.insert(lines.index(line), section.split("#")[0].rstrip() or line)
        elif change == "renamed":
            culprit = name + draw.choice(["s", "_", "x", " "])
            culprit = culprit if culprit.strip() != name else name[:-1] + "Z"
            lines[lines.index(line)] = line.replace(name, culprit, 1)
        elif change == "form":
            culprit = f"{path}: "
            broken = line.split("#")[0].rstrip() + draw.choice([": x", "\n\tx: 1", "\n- a"])
            lines[lines.index(line)] = broken
        elif change == "encoding":
            culprit, encoding = "UTF-8", "utf-16"
        content = draw.choice(["\n", "\n", "\r\n"]).join(lines).encode(encoding)
        if change == "none" and draw.random() < 0.2:
            content = json.dumps(BASE, indent=draw.choice([None, 2, "\t"])).encode(encoding)
        path.write_bytes(content)
        if change == "none":
            assert load_config(path) == expected, content
        else:
            with pytest.raises(UserError) as caught:
                load_config(path)
            message = str(caught.value)
            assert culprit in message, (message, content)
            assert "\n" not in message
        outcomes[change] += 1
    print(outcomes)
