"""The command line: the commands of `esm1b`, and how they end."""

import logging
import os
import re
import sys
from collections.abc import Callable
from typing import Any, Final

import typer

from esm1b.commands import data, evaluation, publishing, training, use
from esm1b.commands.command import Command, Group, described, shown_name
from esm1b.errors import (
    DownloadError,
    RunFailure,
    SharedUserError,
    Stopped,
    UserError,
    paths_of_the_user,
)
from esm1b.pretraining.distributed.place import is_first_process

STOPPED = 75

_GROUP: Final[dict[str, Any]] = {
    "cls": Group,
    "rich_markup_mode": None,
    "options_metavar": "",
    "subcommand_metavar": "COMMAND [OPTIONS]",
}
app = typer.Typer(
    help="ESM-1b, from UniRef50 to a trained, evaluated model. Every stage of the workflow is a "
    "command of its own.",
    context_settings={"max_content_width": 100},
    add_completion=False,
    pretty_exceptions_enable=False,
    **_GROUP,
)
evaluate = typer.Typer(
    help="Evaluate a model: perplexity, contacts, secondary structure.", **_GROUP
)
app.add_typer(evaluate, name="evaluate", rich_help_panel="Evaluation")


def _add(group: typer.Typer, panel: str | None, *functions: Callable[..., None]) -> None:
    for function in functions:
        name = function.__name__.strip("_").replace("_", "-")
        group.command(name, cls=Command, rich_help_panel=panel)(function)


_add(app, "Data", data.synthesize, data.download, data.shard, data.tokenize, data.corpus_info)
_add(app, "Training", training.estimate, training.pretrain, training.audit)
_add(app, "Use", use.embed, use.contacts, use.fill_mask)
_add(app, "Evaluation", evaluation.report)
_add(app, "Publishing", publishing.import_, publishing.export)
_add(evaluate, None, evaluation.perplexity, evaluation.contacts, evaluation.secondary_structure)


def main() -> None:
    """Run the command line; see `esm1b --help`."""
    is_first = is_first_process(os.environ)
    logging.basicConfig(
        level=logging.INFO if is_first else logging.WARNING,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    try:
        with paths_of_the_user():
            sys.exit(app(standalone_mode=False))
    except typer.TyperException as error:
        status, message = 2, f"error: {_usage_message(error)}"
        is_shared = True
    except (UserError, DownloadError, ChildProcessError, RunFailure) as error:
        status, message = 2 if isinstance(error, UserError) else 1, f"error: {error}"
        is_shared = isinstance(error, SharedUserError | RunFailure)
    except Stopped as stopped:
        status, message = STOPPED, f"stopped: {stopped}; run the same command to resume"
        is_shared = True
    if is_first or not is_shared:
        print(f"esm1b: {message}", file=sys.stderr)
    sys.exit(status)


def _usage_message(error: Any) -> str:
    """Return what is wrong with an option or argument, in the form of the other messages."""
    parameter = getattr(error, "param", None)
    if parameter is None:  # an unknown command or option, or an option without a value
        text = " ".join(error.format_message().split()).rstrip(".")
        hint = f" (see `{error.ctx.command_path} --help`)" if error.ctx else ""
        return f"{text[0].lower()}{text[1:]}{hint}"
    name = shown_name(parameter)
    if not error.message:
        return f"{name}: missing; expected {described(parameter.help)}"
    given = error.__cause__.errors()[0]["input"]  # typer checks values with pydantic
    expected = re.sub(
        "^Input should be |^Value error, .* is not (?=one of)|, unable to.*", "", error.message
    )
    return f"{name}: {given!r}; expected {expected.rstrip('.')}"
