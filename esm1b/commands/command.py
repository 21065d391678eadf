"""Commands with help in plain text, the same on a terminal and in a pipe, and errors in one line.

The docstring of a command describes its parameters in sections, which become the groups of its
help. An entry such as "`corpus.sample`" stands for the description of that configuration key.
"""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from textwrap import dedent, indent
from typing import Any, Final, ParamSpec

import typer
from typer.core import TyperCommand, TyperGroup

from esm1b.errors import SharedUserError

_log = logging.getLogger(__name__)

_P = ParamSpec("_P")

_HEADING: Final = re.compile(r"^([A-Z]\w*):\n(?= )", re.MULTILINE)
_ENTRY: Final = re.compile(r"^(\w+): (.+(?:\n .+)*)", re.MULTILINE)
_PYDANTIC: Final = re.compile("^Input should be |^Value error, .* is not (?=one of)|, unable to.*")
_WIDEST_NAME: Final = 30
_Groups = defaultdict[str | None, list[tuple[str, str]]]


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

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse `args`; warn of each option given twice of which only the last counts."""
        _, _, given = self.make_parser(ctx).parse_args(list(args))
        for parameter, times in Counter(given).items():
            if times > 1 and not getattr(parameter, "multiple", True):
                _log.warning("%s: given %d times; the last counts", parameter.opts[0], times)
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what follows the name in the usage line: what is required, then the rest."""
        required = [_shown_name(parameter) for parameter in self.params if parameter.required]
        return [*required, "[OPTIONS]"]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the parameters by group."""
        groups: _Groups = defaultdict(list)
        for parameter in self.params:
            name, text = parameter.get_help_record(ctx) or ("", "")
            if parameter.param_type_name == "argument":
                name = _shown_name(parameter)
            groups[getattr(parameter, "rich_help_panel", None)].append((name, described(text)))
        _write(groups, formatter)

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
        """Write the commands by group; a group of commands has no options besides --help."""
        groups: _Groups = defaultdict(list)
        for name, command in self.commands.items():
            rows = groups[getattr(command, "rich_help_panel", None)]
            row = (name, (command.help or "").split("\n\n")[0])
            rows.insert(0 if isinstance(command, TyperGroup) else len(rows), row)
        _write(groups, formatter)


def _write(groups: _Groups, formatter: Any) -> None:
    """Write groups of names with their help, the first column equally wide in all."""
    names = [name for rows in groups.values() for name, _ in rows]
    width = max(len(name) for name in names if len(name) <= _WIDEST_NAME)
    for heading, rows in groups.items():
        with formatter.section(heading or "Commands"):
            formatter.write_dl([(f"{name:{width}}", text) for name, text in rows], width)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn what typer says of a wrong command line into a `UserError` like all others.

    Raises:
        SharedUserError: the message names the option or argument, the value and what was expected.
    """
    try:
        yield
    except typer.TyperException as error:
        raise SharedUserError(_usage_message(error)) from error


def _usage_message(error: Any) -> str:
    parameter = getattr(error, "param", None)
    if parameter is None:  # an unknown command or option, or an option without a value
        text = " ".join(error.format_message().split()).rstrip(".")
        hint = f" (see `{error.ctx.command_path} --help`)" if error.ctx else ""
        return f"{text[0].lower()}{text[1:]}{hint}"
    name = _shown_name(parameter)
    if not error.message:
        return f"{name}: missing; expected {described(parameter.help)}"
    given = error.__cause__.errors()[0]["input"]  # typer checks values with pydantic
    expected = _PYDANTIC.sub("", error.message).rstrip(".")
    return f"{name}: {given!r}; expected {expected}"


def runs(target: str) -> Callable[[Callable[_P, None]], Callable[_P, None]]:
    """Have a command call the function that `target` names as "module:function".

    The module is imported only then. What was not given and has no default is left to the function.
    """

    def bind(command: Callable[_P, None]) -> Callable[_P, None]:
        @wraps(command)
        def call(*arguments: _P.args, **options: _P.kwargs) -> None:
            module, _, function = target.partition(":")
            given = {name: value for name, value in options.items() if value is not None}
            getattr(import_module(module), function)(*arguments, **given)

        return call

    return bind


def _shown_name(parameter: Any) -> str:
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
