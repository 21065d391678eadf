import importlib
import inspect
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints
from unittest.mock import patch

import pytest
import typer
from typer.testing import CliRunner

from esm1b.cli import app
from esm1b.commands.command import described
from esm1b.config import describe

GROUPS = {
    (): {
        "Data": ["synthesize", "download", "shard", "tokenize", "corpus-info"],
        "Training": ["estimate", "profile", "pretrain", "watch", "audit"],
        "Use": ["embed", "contacts", "score", "variants", "fill-mask"],
        "Evaluation": ["evaluate", "report"],
        "Publishing": ["import", "export"],
    },
    ("evaluate",): {"Commands": ["perplexity", "contacts", "secondary-structure", "variants"]},
}


def commands(group: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*names, name))
        else:
            yield (*names, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))


def help_of(*names: str, columns: int = 100) -> str:
    output = io.StringIO()
    with patch.dict(os.environ, COLUMNS=str(columns)), redirect_stdout(output):
        assert app([*names, "--help"], prog_name="esm1b", standalone_mode=False) == 0
    text = output.getvalue()
    assert text.isascii()
    assert max(map(len, text.split("Example:")[0].splitlines())) <= columns
    return text


def example_arguments(names: tuple[str, ...]) -> list[str]:
    """Return what follows the command's name in the example of its help."""
    example = shlex.split(help_of(*names).split("\nExample:\n")[1].replace("\\\n", ""))
    start = example.index("esm1b") + 1
    assert example[start : start + len(names)] == [*names]
    return example[start + len(names) :]


def packed(text: str) -> str:
    """Return the text without white space, since lines may break at hyphens."""
    return "".join(text.split())


@pytest.mark.parametrize("group", GROUPS, ids=" ".join)
def test_every_command_is_in_one_group(group: tuple[str, ...]) -> None:
    found: dict[str, list[str]] = {}
    for line in help_of(*group).splitlines():
        if heading := re.fullmatch(r"([A-Z]\w+):", line):
            found[heading[1]] = []
        elif found and (row := re.match(r"  ([a-z-]+)  ", line)):
            list(found.values())[-1].append(row[1])
    assert found == GROUPS[group]
    listed = {(*group, name) for names in found.values() for name in names} - {("evaluate",)}
    assert listed == {names for names in COMMANDS if names[:-1] == group}


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_no_sentence_is_cut(columns: int) -> None:
    for group in GROUPS:
        text = packed(help_of(*group, columns=columns))
        assert "..." not in text
        for names, command in COMMANDS.items():
            if names[:-1] == group:
                summary = command.help.split("\n\n")[0]
                assert summary.endswith(".")
                assert f"{names[-1]}{packed(summary)}" in text
    for names, command in COMMANDS.items():
        text = packed(help_of(*names, columns=columns))
        assert packed(command.help) in text
        for parameter in command.params:
            assert packed(described(parameter.help)) in text, parameter.name


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_help_fits_a_screen_and_ends_with_an_example(names: tuple[str, ...]) -> None:
    text = help_of(*names)
    assert len(text.splitlines()) <= 50
    assert "--output" in text or names[0] in ("corpus-info", "estimate", "fill-mask", "watch")
    with COMMANDS[names].make_context(names[-1], example_arguments(names)) as context:
        assert context.params


def test_help_is_the_same_wherever_it_is_shown() -> None:
    outputs = set()
    for environment in ({"TERM": "dumb"}, {"NO_COLOR": "1"}, {"FORCE_COLOR": "1", "TERM": "xterm"}):
        outputs.add(
            subprocess.run(
                [sys.executable, "-m", "esm1b", "shard", "--help"],
                cwd=Path(__file__).parents[2],
                env=os.environ | environment | {"COLUMNS": "100"},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
    (output,) = outputs
    assert output.replace("python -m esm1b", "esm1b") == help_of("shard")


def test_without_a_command_the_help_is_an_error() -> None:
    result = CliRunner().invoke(app, ["evaluate"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "secondary-structure" in result.stderr


BOUND = {
    names: c for names, c in COMMANDS.items() if hasattr(c.callback.__wrapped__, "__wrapped__")
}


def kind(hint: Any) -> str:
    """Return a type in words that are the same for a list and a sequence, optional or not."""
    if get_origin(hint) is Literal:
        return str(sorted(get_args(hint)))
    return str(hint).replace("collections.abc.Sequence", "list").replace(" | None", "")


@pytest.mark.parametrize("names", BOUND, ids=" ".join)
def test_a_command_has_the_parameters_of_its_function(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str, dict[str, Any]]] = []

    class Module:
        def __init__(self, module: str) -> None:
            self._module = module

        def __getattr__(self, function: str) -> Any:
            return lambda **given: calls.append((self._module, function, given))

    monkeypatch.setattr("esm1b.commands.command.import_module", Module)
    result = CliRunner().invoke(app, [*names, *example_arguments(names)])
    assert result.exit_code == 0, result.output
    ((module, name, given),) = calls
    function = getattr(importlib.import_module(module), name)
    inspect.signature(function).bind(**given)
    parameters = inspect.signature(function).parameters
    hints = get_type_hints(function)
    command = inspect.unwrap(COMMANDS[names].callback)
    for name, hint in get_type_hints(command).items():
        if name not in ("return", "source", "regularisation"):
            assert kind(hint) == kind(hints[name])
            if (default := inspect.signature(command).parameters[name].default) is not None:
                assert default == parameters[name].default


def test_defaults_are_those_of_the_configuration() -> None:
    defaults = {key: json.loads(default) for key, default, _ in describe()}
    differing = set()
    for command in COMMANDS.values():
        for parameter in command.params:
            if parameter.help.startswith("`"):
                key = parameter.help.strip("`")
                if parameter.default != defaults[key]:
                    differing.add(key)
    # the recipe's values, while the configuration's are the demonstration's
    assert differing == {
        "corpus.shards",
        "corpus.validation_fraction",
        "evaluation.contacts.jacobian",
        "evaluation.contacts.regularisation",
        "evaluation.variants.epistasis",
    }


def test_an_option_given_twice_is_told(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    lists = ["--exclude", "a", "--shards", "2", "--exclude", "b"]
    CliRunner().invoke(app, ["shard", str(tmp_path / "none"), "--output", output, *lists])
    assert caplog.messages == ["--exclude: given 2 times; the last counts"]
    layers = ["--layers", "1", "--layers", "2"]  # takes several
    CliRunner().invoke(app, ["embed", "none", "none", "--output", output, *layers])
    assert len(caplog.messages) == 1
