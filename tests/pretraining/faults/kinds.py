"""The kinds of faults: each strikes one start of a trial and checks how it ends.

A kind returns what became of it in words; None where the run ended before it could strike.
"""

import random
import re
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.pretraining.faults.damage import damage
from tests.pretraining.faults.trial import INTERVAL, UPDATES, Start, Trial

__all__ = ["KINDS", "Kind", "needs_others", "require_stop_for_good"]

Kind = Callable[[Trial, random.Random], str | None]

_SHARE_AT_START: Final = 0.25
_SHARE_AT_ONCE: Final = 0.3
_WATCHDOG_SECONDS: Final = 5
# The watchdog looks after the launcher so often, with that limit.
_WATCHDOG_INTERVAL: Final = 0.25
_MOST_FAILURES: Final = 3
_STOPPED: Final = 75
_KILLED: Final = -signal.SIGKILL


def kill_one(trial: Trial, chance: random.Random) -> str | None:
    """SIGKILL one process at a random moment: the others end, and name it."""
    start = trial.start()
    if not _wait_for_moment(start, chance):
        return _finished(start)
    return _lose(start, _any_rank(trial, chance), chance)


def kill_all(trial: Trial, chance: random.Random) -> str | None:
    """SIGKILL all processes at a random moment."""
    start = trial.start()
    if not _wait_for_moment(start, chance):
        return _finished(start)
    start.run.kill()
    _require_killed(start)
    return "killed"


def kill_during_save(trial: Trial, chance: random.Random) -> str | None:
    """SIGKILL one process or all while a slow disk takes a save behind the updates."""
    seconds = chance.uniform(0.2, 0.6)
    start = trial.start(write_seconds=seconds)
    number = _number_of_save(start.first, chance) or 1
    update = INTERVAL * (start.first // INTERVAL + number)
    if not start.comes_to(lambda: (start.updates() or 0) >= update and start.is_saving()):
        return _finished(start)
    time.sleep(chance.uniform(0, 2.2 * seconds))
    if chance.random() < 0.5:
        start.run.kill()
        _require_killed(start)
        return "all killed"
    return _lose(start, _any_rank(trial, chance), chance)


def damage_newest(trial: Trial, chance: random.Random) -> str | None:
    """SIGKILL all processes, then damage the newest checkpoint; an older one is there."""
    start = trial.start()
    least = max(start.first + 1, 2 * INTERVAL + 1)
    if least > UPDATES or not _reaches(start, chance.randint(least, UPDATES), chance):
        return _finished(start)
    start.run.kill()
    _require_killed(start)
    whole = trial.whole()
    if len(whole) < 2:
        raise start.deviation(f"whole checkpoints {whole}; expected two")
    what = damage(whole[-1], chance)
    trial.damaged(whole[-1])
    restart = trial.start()
    restart.comes_to(restart.is_guarded)
    restart.run.kill()
    _require_killed(restart)
    restart.require_text(f"{whole[-1]}: damaged")
    return what.partition(" of ")[0]


def overlap(trial: Trial, chance: random.Random) -> str | None:
    """SIGTERM while each save takes longer than the interval: they come one after the other."""
    start = trial.start(write_seconds=chance.uniform(0.3, 0.9))
    update = _any_update(start, chance)

    def is_reached() -> bool:
        start.is_saving()  # raises where two are
        return (start.updates() or 0) >= update

    if not start.comes_to(is_reached):
        return _finished(start)
    return _terminate(start, chance)


def full_disk(trial: Trial, chance: random.Random) -> str | None:
    """Let one to three saves fail behind the updates with half of a file written."""
    return _fail_saves(
        trial,
        chance,
        disk=chance.choice(("full while tensors are written", "full at the marker")),
        rank=_any_rank(trial, chance),
    )


def read_only(trial: Trial, chance: random.Random) -> str | None:
    """Let one to three saves, or the start, find that the directory is read-only."""
    if chance.random() < 0.25:
        start = trial.start(disk="read-only", first_failure=0)
        start.end()
        start.require(*([status] * len(start.statuses) for status in (1, 2)))
        start.require_text("Read-only file system")
        start.check()
        return "did not start"
    return _fail_saves(trial, chance, disk="read-only")


def stop(trial: Trial, chance: random.Random) -> str | None:
    """SIGTERM to all processes or to one, at a random moment."""
    start = trial.start()
    if not _wait_for_moment(start, chance):
        return _finished(start)
    return _terminate(start, chance)


def kill_launcher(trial: Trial, chance: random.Random) -> str | None:
    """SIGKILL the launcher: the processes save and stop; perhaps the command is given at once."""
    start = trial.start(watchdog_seconds=_WATCHDOG_SECONDS)
    if chance.random() < _SHARE_AT_START:
        start.comes_to(start.has_begun)
        time.sleep(chance.uniform(0, 1))
        if start.run.is_over():
            return _finished(start)
    elif not _reaches(start, _any_update(start, chance), chance):
        return _finished(start)
    start.run.kill_launcher()
    unnoticed = 3 + _WATCHDOG_INTERVAL / trial.expected.update_seconds
    is_late = max(start.first, start.updates() or 0) >= UPDATES - unnoticed
    restart = trial.start() if chance.random() < _SHARE_AT_ONCE else None
    start.end()
    stopped = [_STOPPED] * len(start.statuses)
    finished = [0] * len(start.statuses)
    start.require(*((stopped, finished) if is_late else (stopped,)))
    if restart is None:
        start.check()
        return "saved and stopped" if start.statuses == stopped else "finished"
    _finish_at_once(restart)
    has_waited = "waiting for process" in restart.run.errors()
    return "the next start waited for it" if has_waited else "the next start had not to wait"


def suspend(trial: Trial, chance: random.Random) -> str | None:
    """SIGSTOP one process: the watchdogs end the others within their limit, and name it."""
    start = trial.start(watchdog_seconds=_WATCHDOG_SECONDS)
    if not _reaches(start, _any_update(start, chance), chance):
        return _finished(start)
    rank = _any_rank(trial, chance)
    start.run.signal(signal.SIGSTOP, rank)
    others = [other for other in range(trial.subject.processes) if other != rank]
    began = time.monotonic()
    while not all(start.has_ended(other) for other in others):
        if time.monotonic() > began + 3 * _WATCHDOG_SECONDS:
            start.run.kill()
            raise start.deviation(f"rank {rank} is stopped and others wait for it")
        time.sleep(0.01)
    start.run.signal(signal.SIGKILL, rank)
    start.end()
    return _judge_loss(start, rank, is_guarded=True)


KINDS: Final[Mapping[str, Kind]] = {
    "kill one": kill_one,
    "kill all": kill_all,
    "kill during a save": kill_during_save,
    "saves overlap": overlap,
    "damage": damage_newest,
    "full disk": full_disk,
    "read-only": read_only,
    "SIGTERM": stop,
    "kill the launcher": kill_launcher,
    "suspend one": suspend,
}
"""By name."""


def needs_others(kind: str) -> bool:
    """Return whether a kind needs a run in several processes."""
    return kind in ("kill the launcher", "suspend one")


def require_stop_for_good(trial: Trial) -> None:
    """Check that a start refuses to go on after two failures, and do what it says.

    Raises:
        Deviation: it goes on.
    """
    start = trial.start()
    start.end()
    start.require([78] * len(start.statuses))
    start.require_text("stopped for good: 2 attempts from update ")
    start.require_text(f"remove {trial.checkpoints / 'attempts.jsonl'} to try again")
    start.check()
    trial.remove_what_stops_for_good()


def _any_rank(trial: Trial, chance: random.Random) -> int:
    return chance.randrange(trial.subject.processes)


def _any_update(start: Start, chance: random.Random) -> int:
    """Return an update that is left to do; one that never comes where none is."""
    return chance.randint(min(start.first, UPDATES) + 1, max(UPDATES, start.first + 1))


def _wait_for_moment(start: Start, chance: random.Random) -> bool:
    """Wait for a random moment of a start; return False if the run ended before."""
    if chance.random() < _SHARE_AT_START:
        time.sleep(chance.random())
        return not start.run.is_over()
    return _reaches(start, _any_update(start, chance), chance)


def _reaches(start: Start, update: int, chance: random.Random) -> bool:
    """Wait for a random moment in or after an update; return False if the run ended before."""
    if not start.comes_to(lambda: (start.updates() or 0) >= update):
        return False
    time.sleep(2 * start.trial.expected.update_seconds * chance.random())
    return not start.run.is_over()


def _number_of_save(start_at: int, chance: random.Random) -> int | None:
    """Return which save of a start to strike, counted from 1; None where none is left."""
    left = UPDATES // INTERVAL - start_at // INTERVAL
    return chance.randint(1, left) if left else None


def _finished(start: Start) -> str | None:
    """Check a start that ended before anything could strike: nothing became of the fault."""
    start.end()
    start.require([0] * len(start.statuses))
    start.check()
    return None


def _finish_at_once(restart: Start) -> None:
    """Let a start that did not wait for the one before come to the end."""
    restart.end()
    restart.require([0] * len(restart.statuses))
    restart.trial.check_end()


def _terminate(start: Start, chance: random.Random) -> str:
    """SIGTERM all processes or one and check that they save and stop."""
    is_guarded = start.is_guarded()
    ranks = () if chance.random() < 0.5 else (_any_rank(start.trial, chance),)
    start.run.signal(signal.SIGTERM, *ranks)
    # The signal acts an update after the next one.
    is_late = max(start.first, start.updates() or 0) >= UPDATES - 3
    if is_guarded:
        start.end()
    elif start.end_with_launcher():
        start.check()
        return "one died of it before they had met; the launcher ended the others"
    start.check()
    found = set(start.statuses)
    if found == {_STOPPED}:
        if start.trial.newest() != (start.updates() or start.first):
            raise start.deviation(f"stopped; the newest checkpoint is of {start.trial.newest()}")
        return "saved and stopped"
    if found == {0} and is_late:
        return "finished"
    if found <= {0, -signal.SIGTERM} and is_late:
        return "finished, and died of it then"
    if found <= {1, _STOPPED, -signal.SIGTERM} and not is_guarded:
        return "died of it, or stopped, before they had met"
    raise start.deviation(f"statuses {start.statuses} after SIGTERM")


def _require_killed(start: Start) -> None:
    start.end()
    if start.is_finishing():
        if not set(start.statuses) <= {0, _KILLED}:
            raise start.deviation(f"statuses {start.statuses} after SIGKILL")
    else:
        start.require([_KILLED] * len(start.statuses))
    start.check()


def _lose(start: Start, rank: int, chance: random.Random) -> str:
    """SIGKILL one process and check how the others end; perhaps the command is given at once."""
    is_guarded = start.is_guarded()
    start.run.signal(signal.SIGKILL, rank)
    if not is_guarded:
        if start.end_with_launcher():
            start.check()
            return "before they had met; the launcher ended the others"
        return _judge_loss(start, rank, is_guarded=False)
    if chance.random() > _SHARE_AT_ONCE:
        start.end()
        return _judge_loss(start, rank, is_guarded=True)
    restart = start.trial.start()
    start.end()
    _require_loss(start, rank, is_guarded=True)
    _finish_at_once(restart)
    return "the others ended, while the next start waited or went on"


def _judge_loss(start: Start, rank: int, *, is_guarded: bool) -> str:
    _require_loss(start, rank, is_guarded=is_guarded)
    start.check()
    return "the others ended" if is_guarded else "before they watched; the others ended"


def _require_loss(start: Start, rank: int, *, is_guarded: bool) -> None:
    """Check how a start ended whose process `rank` was lost."""
    others = [status for other, status in enumerate(start.statuses) if other != rank]
    is_finishing = start.is_finishing()
    if not set(others) <= ({0, 1} if is_finishing else {1}):
        raise start.deviation(f"statuses {start.statuses} after rank {rank} was lost")
    if start.statuses[rank] != _KILLED and not (is_finishing and start.statuses[rank] == 0):
        raise start.deviation(f"statuses {start.statuses} after rank {rank} was lost")
    named = re.search(rf"rank {rank} on \S+ (died|hangs|gave no sign)", start.run.errors())
    if not others or not is_guarded or is_finishing:
        return
    if not named:
        raise start.deviation(f"the log does not say that rank {rank} was lost")
    lost = [line for line in start.trial.attempts() if line["event"] == "lost"]
    if not lost or lost[-1].get("ranks") != [rank]:
        raise start.deviation(f"attempts.jsonl does not say that rank {rank} was lost: {lost[-1:]}")


def _fail_saves(trial: Trial, chance: random.Random, **disk: Any) -> str | None:
    """Let one to three saves in a row fail, as `disk` says."""
    number = _number_of_save(trial.newest(), chance)
    if number is None:
        return _finished(trial.start())
    failures = chance.randint(1, _MOST_FAILURES)
    if failures == _MOST_FAILURES:
        times = chance.randint(1, 2)
        number = 1 if times == 2 else number  # twice without a checkpoint, it stops for good
        for _ in range(times):
            start = trial.start(first_failure=number, failures=failures, **disk)
            start.end()
            start.require([1] * len(start.statuses))
            start.require_text("not saved: ")
            trial.failure_is_provoked()
            start.check(saves_fail=True)
        return "ended after three"
    start = trial.start(first_failure=number, failures=failures, **disk)
    update = INTERVAL * (start.first // INTERVAL + number)
    if chance.random() < 0.7 and start.comes_to(lambda: trial.latest() >= update):
        time.sleep(INTERVAL * start.trial.expected.update_seconds * chance.random())
        start.run.kill()
        _require_killed(start)
    else:
        _finished(start)
    start.require_text(f"failure {failures} of {_MOST_FAILURES}")
    return f"went on after {failures}"
