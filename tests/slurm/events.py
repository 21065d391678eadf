"""What happens to a run on a cluster, each with what `attempts.jsonl` has to say of it."""

import random
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.slurm.cluster import wait_for
from tests.slurm.runs import Run

__all__ = ["EVENTS", "happen"]

_Chance = random.Random
_SECONDS_TO_RESTART: Final = 240


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event that ends an attempt, or leaves it alone.

    Attributes:
        strike: function that makes it happen to a job that trains.
        told: pattern of the attempt's end, as "event: message"; empty: the attempt goes on.
        requeues: whether the job comes back by itself.
        needs_spare: whether a node is gone afterwards.
        of_snakemake: whether it happens to Snakemake, where that has submitted the job.
    """

    strike: Callable[[Run, str, _Chance], object]
    told: str
    requeues: bool = True
    needs_spare: bool = False
    of_snakemake: bool = False


def happen(name: str, run: Run, job: str, chance: _Chance) -> int:
    """Let an event happen to a job that trains; check how its attempt ends and what is told of it.

    Return the number of the attempt that goes on, or will when the job is submitted again.
    """
    event, attempt = EVENTS[name], run.newest_attempt()
    cluster = run.cluster
    event.strike(run, job, chance)
    if not event.told:
        return attempt

    def has_ended() -> bool:
        return cluster.jobs()[job] in ("COMPLETED", "CANCELLED")

    wait_for(lambda: has_ended() or run.newest_attempt() > attempt, seconds=_SECONDS_TO_RESTART)
    if cluster.jobs()[job] != "COMPLETED":
        assert has_ended() == (not event.requeues), cluster.jobs()
    end = run.end_of(attempt)
    assert re.match(event.told, end), (name, end)
    if event.needs_spare:
        hosts = cluster.hosts(job)
        for node in cluster.nodes:
            if node not in hosts:
                cluster.power_on(node)
        wait_for(lambda: "down" not in cluster.answer("sinfo", "-h", "-o", "%t"), seconds=180)
    return attempt + 1


def _kill_a_rank(run: Run, job: str, chance: _Chance) -> None:
    trainers = [each for node in run.cluster.hosts(job) for each in run.cluster.trainers(node)]
    chance.choice(trainers[1:]).kill()


def _kill_rank_0(run: Run, job: str, chance: _Chance) -> None:
    run.cluster.trainers(run.cluster.hosts(job)[0])[0].kill()


def _signal(run: Run, job: str, chance: _Chance) -> None:
    run.cluster.answer("scancel", f"--signal={chance.choice(['USR1', 'TERM'])}", f"{job}.0")


def _preempt(run: Run, job: str, chance: _Chance) -> None:
    nodes = f"--nodelist={','.join(run.cluster.hosts(job))}"
    words = ("--partition=urgent", "--exclusive", nodes, "--output=/dev/null", "--wrap=sleep 1")
    run.cluster.answer("sbatch", *words)


def _end_its_time(run: Run, job: str, chance: _Chance) -> None:
    """Move the limit so near that the signal of the script is due at once."""
    attempt = run.newest_attempt()
    run.cluster.answer("scontrol", "update", f"job={job}", "TimeLimit=3")
    wait_for(lambda: run.end_of(attempt), seconds=60)
    run.cluster.answer("scontrol", "update", f"job={job}", "TimeLimit=60")


def _cut_for_seconds(run: Run, job: str, chance: _Chance) -> None:
    node = chance.choice(run.cluster.hosts(job))
    run.cluster.cut(node)
    time.sleep(chance.uniform(2, 8))
    run.cluster.mend(node)


def _interrupt(run: Run, job: str, chance: _Chance) -> None:
    for controller in run.cluster.controllers():
        controller.send_signal(signal.SIGINT)


def _kill_snakemake(run: Run, job: str, chance: _Chance) -> None:
    for controller in run.cluster.controllers():
        controller.kill()


_SAVED: Final = r"stopped: saved after update \d+ of \d+ "
# the second where the job had no other node
_SILENT: Final = r"lost: (rank \d on n\d gave no sign of life|no process could say why)"

EVENTS: Final = {
    "kill -9 of a rank": Event(strike=_kill_a_rank, told=r"lost: rank \d on n\d died"),
    "kill -9 of rank 0": Event(strike=_kill_rank_0, told=r"lost: rank 0 on n\d died"),
    # SLURM signals all processes of a step, never one
    "kill -9 of the step": Event(
        strike=lambda run, job, _: run.cluster.answer("scancel", "--signal=KILL", f"{job}.0"),
        told=r"lost: ",
    ),
    "signal": Event(strike=_signal, told=_SAVED + r"\(SIG(TERM|USR1)\)"),
    "scontrol requeue": Event(
        strike=lambda run, job, _: run.cluster.answer("scontrol", "requeue", job),
        told=_SAVED + r"\(SIGTERM\)",
    ),
    "preemption": Event(strike=_preempt, told=_SAVED + r"\(SIGTERM\)"),
    "time limit": Event(strike=_end_its_time, told=_SAVED + r"\((SIGUSR1|its job ends in .*)\)"),
    "scancel": Event(
        strike=lambda run, job, _: run.cluster.answer("scancel", job),
        told=_SAVED + r"\(SIGTERM\)",
        requeues=False,
    ),
    "Ctrl-C": Event(
        strike=_interrupt, told=_SAVED + r"\(SIGTERM\)", requeues=False, of_snakemake=True
    ),
    "Snakemake killed": Event(strike=_kill_snakemake, told="", of_snakemake=True),
    "link cut for seconds": Event(strike=_cut_for_seconds, told=""),
    "link cut for good": Event(
        strike=lambda run, job, _: run.cluster.cut(run.cluster.hosts(job)[-1]),
        told=_SILENT,
        needs_spare=True,
    ),
    "node off": Event(
        strike=lambda run, job, _: run.cluster.power_off(run.cluster.hosts(job)[-1]),
        told=_SILENT,
        needs_spare=True,
    ),
    "batch host off": Event(
        strike=lambda run, job, _: run.cluster.power_off(run.cluster.hosts(job)[0]),
        told=_SILENT,
        needs_spare=True,
    ),
}
