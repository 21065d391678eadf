"""The jobs of a workflow that are in SLURM's queue, even if what submitted them is gone."""

import re
import subprocess
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# job, state, working directory, comment
_QUEUE: Final = ("squeue", "--me", "--noheader", "--format=%i|%T|%Z|%k")
_ROW: Final = r"(?m)^([^|\n]*)\|([^|\n]*)\|([^|\n]*)\|(.*)$"
# the comment of a job; the profile cluster-generic has the name of the wildcard, too
_COMMENT: Final = re.compile(r"rule_(\w+?)(?:_wildcards_(?:\w+=)?(.*))?")
_LOCK: Final = re.compile(r"SLURM job (\w+)")


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """A job that is waiting, running or being ended.

    Attributes:
        number: SLURM's number of the job.
        state: word of SLURM for the job's state, such as RUNNING.
        doing: description of the job, such as "trains in checkpoints/esm1b".
    """

    number: str
    state: str
    doing: str

    def __str__(self) -> str:
        """Return the job in words."""
        return f"SLURM job {self.number} ({self.state.lower()}) {self.doing}"

    @property
    def advice(self) -> str:
        """What its user can do, in words."""
        return f"wait for it (squeue -j {self.number}) or end it (scancel {self.number})"


def find_jobs(
    directory: Path, *, names: Set[str] | None = None, own: str | None = None
) -> list[SlurmJob]:
    """Return the user's jobs of the workflow in `directory`; none where there is no SLURM.

    A job belongs to it if Snakemake submitted it from there, or if it trains in one of the
    checkpoint directories there, as the file `lock` says.

    Args:
        directory: working directory of the workflow.
        names: names of the runs and corpora to look for; all by default.
        own: number of the job of this process, which does not count.
    """
    try:
        queue = subprocess.run(_QUEUE, capture_output=True, text=True, check=False).stdout
    except OSError:
        return []
    training = _training_jobs(directory)
    found = []
    for number, state, place, comment in re.findall(_ROW, queue):
        if number == own:
            continue
        rule, name = submitted.groups() if (submitted := _COMMENT.fullmatch(comment)) else ("", "")
        is_here = Path(place).resolve() == directory.resolve()
        if (run := training.get(number)) and (names is None or run in names):
            doing = f"trains in checkpoints/{run}"
        elif rule and is_here and (names is None or not name or name in names):
            doing = f"runs {rule}" + (f" of {name}" if name else "")
        else:
            continue
        found.append(SlurmJob(number=number, state=state, doing=doing))
    return found


def _training_jobs(directory: Path) -> dict[str, str]:
    """Return the runs that were last trained by a job, by its number."""
    jobs = {}
    for lock in directory.glob("checkpoints/*/lock"):
        if holder := _LOCK.search(lock.read_text(encoding="utf-8", errors="replace")):
            jobs[holder[1]] = lock.parent.name
    return jobs
