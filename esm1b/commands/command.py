"""Help in plain text, the same on a terminal and in a pipe: in groups, whole sentences, examples.

The docstring of a command describes its parameters in sections, which become the groups of its
help. An entry such as "`corpus.sample`" stands for the description of that configuration key.
"""

import re
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from textwrap import dedent, indent
from typing import Any, Final, ParamSpec

import typer
from typer.core import TyperCommand, TyperGroup

P = ParamSpec("P")

_HEADING: Final = re.compile(r"^([A-Z]\w*):\n(?= )", re.MULTILINE)
_ENTRY: Final = re.compile(r"^(\w+): (.+(?:\n .+)*)", re.MULTILINE)
_WIDEST_NAME: Final = 30


class Command(TyperCommand):
    """A command whose help is its docstring, with the parameters as typer knows them."""

    def __init__(self, name: str | None, **settings: Any) -> None:
        super().__init__(name, **settings)
        self.help, *sections = _HEADING.split(f"{self.help}\n")
        by_heading = dict(zip(sections[::2], map(dedent, sections[1::2]), strict=True))
        self.example = by_heading.pop("Example").strip()
        parameters: dict[str, Any] = {parameter.name: parameter for parameter in self.params}
        for heading, section in by_heading.items():
            for parameter, text in _ENTRY.findall(section):
                parameters[parameter].help = " ".join(text.split())
                parameters[parameter].rich_help_panel = heading

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what follows the name in the usage line: what is required, then the rest."""
        required = [shown_name(parameter) for parameter in self.params if parameter.required]
        return [*required, "[OPTIONS]"]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the parameters by group, the first column equally wide in all."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.params:
            name, text = parameter.get_help_record(ctx) or ("", "")
            if parameter.param_type_name == "argument":
                name = shown_name(parameter)
            group = groups.setdefault(getattr(parameter, "rich_help_panel", None) or "Other", [])
            group.append((name, described(text)))
        names = [name for rows in groups.values() for name, _ in rows]
        width = max(len(name) for name in names if len(name) <= _WIDEST_NAME)
        for heading, rows in groups.items():
            with formatter.section(heading):
                formatter.write_dl([(f"{name:{width}}", text) for name, text in rows], width)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the example as it stands, to be copied."""
        formatter.write(f"\nExample:\n{indent(self.example, '  ')}\n")


class Group(TyperGroup):
    """Commands, listed under their headings with the first sentence of their help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse `args`; without any, show the help as an error."""
        if not args:
            typer.echo(ctx.get_help(), err=True)
            raise typer.Exit(2)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands; a group has no options besides --help."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            heading = getattr(command, "rich_help_panel", None) or "Commands"
            row = (name, (command.help or "").split("\n\n")[0])
            rows = groups.setdefault(heading, [])
            rows.insert(0 if isinstance(command, TyperGroup) else len(rows), row)
        width = max(map(len, self.commands))
        for heading, rows in groups.items():
            with formatter.section(heading):
                formatter.write_dl([(f"{name:{width}}", text) for name, text in rows])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Say where to read on."""
        formatter.write(f"\n`{ctx.command_path} COMMAND --help` has options and an example.\n")


def runs(target: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Have a command call the function that `target` names as "module:function".

    The module is imported only then. What was not given and has no default is left to the function.
    """

    def bind(command: Callable[P, None]) -> Callable[P, None]:
        @wraps(command)
        def call(*arguments: P.args, **options: P.kwargs) -> None:
            module, _, function = target.partition(":")
            given = {name: value for name, value in options.items() if value is not None}
            getattr(import_module(module), function)(*arguments, **given)

        return call

    return bind


def shown_name(parameter: Any) -> str:
    """Return a parameter as a user gives it: "--output DIR", or "MODEL_DIR" for an argument."""
    name = parameter.opts[0] if parameter.param_type_name == "option" else ""
    return f"{name} {parameter.metavar or ''}".strip()


def described(text: str) -> str:
    """Return a help text with the description of the configuration key it begins with, if any."""
    key = re.match(r"`([\w.]+)`", text)
    if key is None:
        return text
    from esm1b.config import describe  # or every command would wait for numpy

    (description,) = (meaning for name, _, meaning in describe() if name == key[1])
    return description + text[key.end() :]
