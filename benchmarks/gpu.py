"""Everything that a GPU must prove, and what it measures, in one call and one table.

Parts, each a process with a time limit of its own, so that one that fails or hangs leaves the rest:

- `tests`, the tests marked `gpu`; `correctness`, logits and gradients beside CPU; `run`, runs that
  are stopped, killed and resumed. These three measure no time and work side by side.
- `trainer`, 652 million parameters with the whole trainer and without; `peers`, the same network in
  `transformers`; `small`, 148 million parameters. These come one after the other.

All take at most 8 minutes on one H100 or H200 and need no network. Each part writes its result as
JSON; the table is made of the results in the directory, those of earlier calls included.
"""

import argparse
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Final
from xml.etree import ElementTree

from benchmarks.gpu_table import PARTS, rows, table
from benchmarks.machine import describe_machine
from benchmarks.network import check_device
from esm1b.errors import UserError
from esm1b.files import read_json, write_json

OUTPUT: Final = "directory for the results of all parts (default: gpu-results)"
"""Help of `--output`."""

_REPOSITORY: Final = Path(__file__).parents[1]
_SIDE_BY_SIDE: Final = ("tests", "correctness", "run")
# 135 s for those side by side and 340 s for the others: 475 s
_LIMIT_SECONDS: Final = {
    **{"tests": 120, "correctness": 120, "run": 135},
    **{"trainer": 165, "peers": 100, "small": 75},
}
_OFFLINE: Final = {
    **{"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
    "PYTHONUNBUFFERED": "1",
}
_REHEARSAL_SECONDS: Final = 600
_TRAINER: Final = "--tokens-per-update=131072 --micro-batch-tokens=0 --updates=8 --passes=1"
_ON_GPU: Final = "--device=cuda --precision=bf16 --compile --threads=4"
_TINY: Final = "--device=cpu --threads=1 --layers=2 --width=16 --heads=2"
_TINY_TRAINER: Final = (
    f"{_TINY} --tokens-per-update=1024 --micro-batch-tokens=512 --updates=3 --passes=1"
)
# The benchmark of each part but the tests, and its options on a GPU and in a rehearsal
_COMMANDS: Final = {
    "correctness": ("gpu_correctness", "--device=cuda", "--device=cpu --residues=600"),
    "run": (
        "gpu_run",
        "--device=cuda --threads=2 --seconds=120",
        f"{_TINY} --sequences=20 --updates=40 --tokens-per-update=1024 --rounds=1",
    ),
    "trainer": (
        "trainer",
        f"{_ON_GPU} {_TRAINER} --layers=33 --width=1280 --heads=20",
        _TINY_TRAINER,
    ),
    "peers": (
        "encoder_training",
        f"{_ON_GPU} --layers=33 --width=1280 --heads=20 --update-tokens=65536 --updates=1 "
        "--passes=2 --packed-tokens=32768 --padded-tokens=8192 --grouped-tokens=32768",
        f"{_TINY} --update-tokens=600 --updates=1 --passes=1 "
        "--packed-tokens=300 --padded-tokens=600 --grouped-tokens=300",
    ),
    "small": (
        "trainer",
        f"{_ON_GPU} {_TRAINER} --layers=30 --width=640 --heads=20 --no-bare",
        f"{_TINY_TRAINER} --no-bare",
    ),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument(
        "--parts", default=",".join(PARTS), help="parts to run, separated by commas"
    )
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal at tiny sizes"
    )


def measure(options: argparse.Namespace) -> None:
    """Run the parts, write their results, and print the table; exit with 1 if a bar is missed.

    Raises:
        UserError: a part has another name, or torch sees no CUDA device.
    """
    parts = options.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        raise UserError(f"--parts: {unknown[0]!r}; expected some of {', '.join(PARTS)}")
    check_device(options.device)
    output = (options.output or Path("gpu-results")).resolve()
    output.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        together = [part for part in parts if part in _SIDE_BY_SIDE]
        list(pool.map(lambda part: _run(part, options, output), together))
    for part in parts:
        if part not in _SIDE_BY_SIDE:
            _run(part, options, output)
    paths = {part: output / f"{part}.json" for part in PARTS}
    lines = rows({part: read_json(path) for part, path in paths.items() if path.exists()})
    write_json(output / "table.json", [asdict(line) for line in lines])
    print(table(lines))
    if any(line.outcome == "fail" for line in lines):
        sys.exit(1)


def _run(part: str, options: argparse.Namespace, output: Path) -> None:
    """Run a part within its limit; its result, or why it has none, is in its JSON file."""
    result, began = output / f"{part}.json", monotonic()
    result.unlink(missing_ok=True)
    if part == "tests":
        _junit(output).unlink(missing_ok=True)
    limit = _LIMIT_SECONDS[part] if options.device == "cuda" else _REHEARSAL_SECONDS
    command = [sys.executable, "-m", *_command(part, options, output)]
    with (output / f"{part}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=_REPOSITORY,
            env={**os.environ, **_OFFLINE},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            status = f"exit status {process.wait(limit)}"
        except subprocess.TimeoutExpired:
            status = f"not done in {limit} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # whatever is left of it
            process.wait()
    if part == "tests" and _junit(output).exists():
        write_json(result, {"machine": describe_machine(1), **_counts(_junit(output))})
    if not result.exists():
        write_json(result, {"failed": status})
    print(f"{part}: {status}, {monotonic() - began:.0f} s", flush=True)


def _command(part: str, options: argparse.Namespace, output: Path) -> list[str]:
    """Return the module and the arguments of a part."""
    is_cuda = options.device == "cuda"
    if part == "tests":
        tests = _REPOSITORY.glob("tests/**/test_*.py")
        files = [str(path) for path in tests if "mark.gpu" in path.read_text(encoding="utf-8")]
        collect = [] if is_cuda else ["--collect-only"]
        arguments = ["-p", "no:cacheprovider", "-o", "addopts=", "-m", "gpu", *collect, *files]
        return ["pytest", f"--junitxml={_junit(output)}", *arguments]
    name, on_gpu, rehearsed = _COMMANDS[part]
    arguments = (on_gpu if is_cuda else rehearsed).split()
    result = output / f"{part}.json"
    return ["benchmarks", name, *arguments, f"--seed={options.seed}", f"--output={result}"]


def _junit(output: Path) -> Path:
    return output / "tests.xml"


def _counts(path: Path) -> dict[str, int]:
    """Return how many tests passed, failed and were skipped, from JUnit's XML."""
    suite = ElementTree.parse(path).getroot()[0]
    counts = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    failed = counts["failures"] + counts["errors"]
    return {
        "passed_tests": counts["tests"] - failed - counts["skipped"],
        "failed_tests": failed,
        "skipped_tests": counts["skipped"],
    }
