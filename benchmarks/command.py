"""What the commands of all benchmarks share."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from esm1b.errors import UserError
from esm1b.files import write_json


def parser_of(
    name: str,
    description: str | None,
    *,
    layers: int,
    width: int,
    heads: int,
    passes: int | None = 3,
) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks and these defaults.

    Without `passes` there is no such option.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--fasta", help="sequences, plain or .gz; default: drawn")
    parser.add_argument("--output", type=Path, help="JSON file to write; default: print")
    parser.add_argument("--layers", type=int, default=layers)
    parser.add_argument("--width", type=int, default=width)
    parser.add_argument("--heads", type=int, default=heads)
    if passes is not None:
        parser.add_argument("--passes", type=int, default=passes, help="over all the work")
    parser.add_argument("--threads", type=int, default=2, help="of torch on CPU")
    parser.add_argument("--seed", type=int, default=1)
    return parser


def run_command(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    measured: Callable[[argparse.Namespace], dict[str, Any]],
) -> None:
    """Parse, measure and write; a UserError is one line and exit code 2."""
    options = parser.parse_args(arguments)
    try:
        result = measured(options)
    except UserError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        sys.exit(2)
    if options.output is None:
        print(json.dumps(result, indent=2))
    else:
        write_json(options.output, result)
