"""Faults put into a copy of the package, each of which some test must notice; by hand.

python -m tests.mutants
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
# what is wrong, in which file, the right text, the wrong one, and where it is noticed
MUTANTS: Final = [
    (
        "fsync removed",
        "esm1b/pretraining/checkpoints/files.py",
        "    fsync(path)\n",
        "",
        "tests/pretraining/checkpoints/test_save.py",
    ),
    (
        "digest not compared",
        "esm1b/pretraining/checkpoints/files.py",
        "if sha256_file(path) != expected.sha256:",
        "if False:",
        "tests/pretraining/checkpoints/test_checkpoint.py",
    ),
    (
        "commit marker first",
        "esm1b/pretraining/checkpoints/save.py",
        "write_state(unfinished, state)\n    fsync(unfinished)\n    os.rename(unfinished, path)",
        "os.rename(unfinished, path)\n    write_state(path, state)",
        "tests/pretraining/checkpoints/test_save.py",
    ),
    (
        "update that does not wait for the copies of a save",
        "esm1b/pretraining/engine/deepspeed_engine.py",
        "        self._copied.wait()\n",
        "",
        "tests/pretraining/engine/test_deepspeed_engine.py",
    ),
    (
        "seed of the order off by one",
        "esm1b/batches/order.py",
        "seed=self._seed, epoch",
        "seed=self._seed + 1, epoch",
        "tests/batches/test_order.py",
    ),
    (
        "pre-flight on rank 0 alone",
        "esm1b/pretraining/distributed/reports.py",
        "verdict = _judge([Report(**json.loads(text)) for text in read])",
        "verdict = _judge([Report(**json.loads(read[0]))] * len(read))",
        "tests/pretraining/test_preflight.py",
    ),
]


def main() -> int:
    """Try all; return 1 if one goes unnoticed."""
    unnoticed = 0
    for name, file, right, wrong, tests in MUTANTS:
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copytree(ROOT, Path(folder) / "copy", ignore=_left_out)
            text = (copy / file).read_text(encoding="utf-8")
            assert text.count(right) == 1, f"{name}: {file} has changed"
            (copy / file).write_text(text.replace(right, wrong), encoding="utf-8")
            result = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-x", "-n0", tests],
                cwd=copy,
                env=os.environ | {"PYTHONPATH": str(copy)},
                capture_output=True,
                text=True,
                check=False,
            )
        failed = [line for line in result.stdout.splitlines() if line.startswith("FAILED")]
        print(f"{name}: {failed[0] if failed else 'NOT NOTICED'}"[:150], flush=True)
        unnoticed += not failed
    return 1 if unnoticed else 0


def _left_out(directory: str, names: list[str]) -> list[str]:
    kept = {"esm1b", "tests", "workflow", "docs", "config", "pyproject.toml", "README.md"}
    return [name for name in names if name not in kept] if Path(directory) == ROOT else []


if __name__ == "__main__":
    sys.exit(main())
