"""The campaign by hand: rounds as asked for, a table on stdout, JSON in a file."""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from tests.conftest import random_tokens
from tests.pretraining.faults.campaign import Round, prepare, run_rounds
from tests.pretraining.faults.kinds import KINDS
from tests.pretraining.faults.trial import Deviation
from tests.pretraining.fork_server import ForkServer


def main() -> int:
    """Run the campaign; return 1 where the run did not do what it promises."""
    arguments = _parser().parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    done: list[Round] = []
    began = time.monotonic()

    def report(round_: Round) -> None:
        done.append(round_)
        print(
            f"{len(done)} {round_.kind}, trial {round_.trial}, from update {round_.first}: "
            f"{round_.outcome} ({round_.seconds:.1f} s)",
            flush=True,
        )

    deviation = None
    with closing(ForkServer()) as server:
        subject, expected = prepare(
            server,
            folder,
            random_tokens(folder),
            processes=arguments.processes,
            zero_stage=arguments.zero_stage,
        )
        try:
            run_rounds(
                subject,
                expected,
                folder,
                rounds=arguments.rounds,
                seed=arguments.seed,
                kinds=arguments.kinds,
                report=report,
            )
        except Deviation as error:
            deviation = str(error)
    seconds = time.monotonic() - began
    print(_table(done), f"{len(done)} rounds in {seconds:.0f} s", sep="\n", flush=True)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps({
            "rounds": [asdict(round_) for round_ in done],
            "processes": arguments.processes,
            "zero_stage": arguments.zero_stage,
            "seed": arguments.seed,
            "seconds": seconds,
            "deviation": deviation,
        }, indent=2) + "\n")  # fmt: skip
    if deviation is not None:
        print(f"{deviation}\nround {len(done) + 1} deviates; all is in {folder}", file=sys.stderr)
        return 1
    return 0


def _table(rounds: list[Round]) -> str:
    counts = Counter((round_.kind, round_.outcome) for round_ in rounds)
    rows = [(kind, outcome, str(count)) for (kind, outcome), count in sorted(counts.items())]
    rows.insert(0, ("fault", "outcome", "rounds"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{kind:{widths[0]}}  {outcome:{widths[1]}}  {count:>{widths[2]}}"
        for kind, outcome, count in rows
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.pretraining.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--zero-stage", type=int, default=1, choices=range(4))
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=tuple(KINDS))
    parser.add_argument("--folder", type=Path, help="stays; otherwise a temporary one")
    parser.add_argument("--output", type=Path, help="JSON of all rounds")
    return parser


if __name__ == "__main__":
    sys.exit(main())
