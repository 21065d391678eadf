"""The command line of the benchmarks.

A benchmark is a module of this folder with two functions: `add_options` adds its options to a
parser, `measure` returns the result for parsed options, or None once it has written it as its
`OUTPUT` says.
"""

import argparse
import ast
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

from esm1b.errors import UserError
from esm1b.files import write_json

BENCHMARKS: Final = (
    *("batches", "embedding", "encoder_training", "gpu", "gpu_correctness", "gpu_run"),
    *("saving", "seeking", "sharding", "tokenizing", "trainer", "variants", "xml_reading"),
)


def main(arguments: Sequence[str]) -> None:
    """Run the benchmark named by the first argument with the options after it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        usage="%(prog)s NAME [OPTION]...",
        description="Measure one part of the project.\n\nBenchmarks:\n" + _listing(),
        epilog="`python -m benchmarks NAME --help` lists the options of one benchmark.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=BENCHMARKS, metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("options", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    if not arguments:
        parser.print_help()
        return
    parsed = parser.parse_args(arguments)
    run_benchmark(parsed.name, parsed.options)


def run_benchmark(name: str, arguments: Sequence[str]) -> None:
    """Measure and write or print the result; a `UserError` is one line and exit status 2."""
    benchmark = import_module(f"benchmarks.{name}")
    parser = parser_of(name)
    options = parser.parse_args(arguments)
    try:
        result = benchmark.measure(options)
    except UserError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        sys.exit(2)
    if result is None:  # it wrote what it has to say
        return
    if options.output is None:
        print(json.dumps(result, indent=2))
    else:
        write_json(options.output, result)


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return the parser of the options of a benchmark."""
    benchmark = import_module(f"benchmarks.{name}")
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=benchmark.__doc__,
        formatter_class=_HelpFormatter,
    )
    benchmark.add_options(parser)
    parser.add_argument("--seed", type=int, default=1, help="random seed")
    output = getattr(benchmark, "OUTPUT", "JSON file to write (default: standard output)")
    parser.add_argument("--output", type=Path, help=output)
    return parser


def _listing() -> str:
    lines = []
    for name in BENCHMARKS:
        source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
        purpose = ast.get_docstring(ast.parse(source)) or ""  # without importing what it measures
        lines.append(f"  {name:17} {purpose.partition(chr(10))[0]}")
    return "\n".join(lines)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the description's lines, adds defaults to the help, and has short metavars."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = action.default is not None and action.default is not False
        if action.default == argparse.SUPPRESS or not has_default:
            return action.help
        return f"{action.help} (default: %(default)s)"

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return "PATH" if action.type is Path else "N"
