"""The command line: the commands of `esm1b`, and how they end."""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any, Final

import typer

from esm1b.commands import data, evaluation, publishing, training, use
from esm1b.commands.command import Command, Group, usage_errors
from esm1b.disk_space import full_disks_in_a_line
from esm1b.errors import Ending, Stopped, paths_of_the_user
from esm1b.pretraining.distributed.place import is_first_process

_GROUP: Final[dict[str, Any]] = {
    "cls": Group,
    "rich_markup_mode": None,
    "options_metavar": "",
    "subcommand_metavar": "COMMAND [OPTIONS]",
    "epilog": "COMMAND --help shows the options of a command and an example.",
}
app = typer.Typer(
    help="ESM-1b, from UniRef50 to a trained, evaluated model: a command for every stage.",
    context_settings={"max_content_width": 100},
    add_completion=False,
    pretty_exceptions_enable=False,
    **_GROUP,
)
evaluate = typer.Typer(
    help="Evaluate a model: perplexity, contacts, structure, effects of mutations.", **_GROUP
)
app.add_typer(evaluate, name="evaluate", rich_help_panel="Evaluation")


def _add(group: typer.Typer, panel: str | None, *functions: Callable[..., None]) -> None:
    for function in functions:
        name = function.__name__.strip("_").replace("_", "-")
        group.command(name, cls=Command, rich_help_panel=panel)(function)


_add(app, "Data", data.synthesize, data.download, data.shard, data.tokenize, data.corpus_info)
_add(app, "Training", training.estimate, training.profile, training.pretrain)
_add(app, "Training", training.watch, training.audit)
_add(app, "Use", use.embed, use.contacts, use.score, use.variants, use.fill_mask)
_add(app, "Evaluation", evaluation.report)
_add(app, "Publishing", publishing.import_, publishing.export)
_add(evaluate, None, evaluation.perplexity, evaluation.contacts, evaluation.secondary_structure)
_add(evaluate, None, evaluation.variants)


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
        with full_disks_in_a_line(), paths_of_the_user(), usage_errors():
            sys.exit(app(standalone_mode=False))
    except (Ending, ChildProcessError) as ending:
        is_stop = isinstance(ending, Stopped)
        kind, advice = ("stopped", "; run the same command to resume") if is_stop else ("error", "")
        if is_first or not getattr(ending, "is_shared", False):
            print(f"esm1b: {kind}: {ending}{advice}", file=sys.stderr)
        sys.exit(getattr(ending, "status", 1))
