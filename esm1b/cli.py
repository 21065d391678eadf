"""The command line: what `esm1b` offers, and how commands end."""

import logging
import os
import sys

import typer

from esm1b.commands import data, evaluation, publishing, training, use
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

app = typer.Typer(
    help="ESM-1b, from UniRef50 to a trained, evaluated model. Every stage of the workflow is a "
    "command of its own.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
evaluate = typer.Typer(
    help="Measure a model: perplexity, contacts, secondary structure.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

app.command()(data.synthesize)
app.command()(data.download)
app.command()(data.shard)
app.command()(data.tokenize)
app.command("corpus-info")(data.corpus_info)
app.command()(training.estimate)
app.command()(training.pretrain)
app.command()(training.audit)
app.add_typer(evaluate, name="evaluate")
evaluate.command()(evaluation.perplexity)
evaluate.command()(evaluation.contacts)
evaluate.command("secondary-structure")(evaluation.secondary_structure)
app.command()(evaluation.report)
app.command("import")(publishing.import_weights)
app.command("export")(publishing.export_weights)
app.command()(use.embed)
app.command("contacts")(use.predict_contacts)
app.command("fill-mask")(use.fill_mask)


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
            app()
    except UserError as error:
        if is_first or not isinstance(error, SharedUserError):
            print(f"esm1b: error: {error}", file=sys.stderr)
        sys.exit(2)
    except (ChildProcessError, DownloadError) as error:
        print(f"esm1b: error: {error}", file=sys.stderr)
        sys.exit(1)
    except RunFailure as error:
        if is_first:
            print(f"esm1b: error: {error}", file=sys.stderr)
        sys.exit(1)
    except Stopped as stopped:
        if is_first:
            print(f"esm1b: stopped: {stopped}; the same command goes on", file=sys.stderr)
        sys.exit(STOPPED)
