"""Run one benchmark: `python -m benchmarks NAME [OPTION]...`."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Final

# Modules with a command of their own; the others serve them.
NAMES: Final = sorted(
    path.stem for path in Path(__file__).parent.glob("*.py") if "\ndef main(" in path.read_text()
)


def run() -> None:
    """Hand the arguments after the name to the benchmark of that name."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        sys.exit(print(f"usage: python -m benchmarks NAME [OPTION]...\n\n{_listing()}"))
    if name not in NAMES:
        print(f"no benchmark {name!r}; expected one of {', '.join(NAMES)}", file=sys.stderr)
        sys.exit(2)
    import_module(f"benchmarks.{name}").main(sys.argv[2:])


def _listing() -> str:
    lines = []
    for name in NAMES:
        purpose = (import_module(f"benchmarks.{name}").__doc__ or "").partition("\n")[0]
        lines.append(f"  {name:17} {purpose}")
    return "\n".join([*lines, "", "python -m benchmarks NAME --help lists the options of one."])


if __name__ == "__main__":
    run()
