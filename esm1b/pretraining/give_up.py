"""When to give up: a run that fails again and again at one update with one layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from esm1b.errors import RunFailure
from esm1b.pretraining.attempt_log import read_attempts

_MOST_FAILURES: Final = 2
# A machine may go away by chance, but not so often in one interval of checkpoints.
_MOST_CUT_SHORT: Final = 5


def check_progress(log: Path, *, update: int, layout: Mapping[str, Any]) -> None:
    """Check that another attempt makes sense after `update` updates; another layout always does.

    Raises:
        RunFailure: the last two attempts from here failed, or the last five were killed, lost a
            process or failed. An attempt that was asked to stop counts as neither. The message is
            one line that says what to remove for another attempt.
    """
    failures: dict[int, str] = {}
    cut_short: set[int] = set()
    is_repeated = False
    for line in read_attempts(log):
        attempt, event = line["attempt"], line["event"]
        if event == "started":
            is_repeated = line["update"] == update and line.get("layout") == layout
            if not is_repeated:  # progress, or another layout
                failures, cut_short = {}, set()
                continue
            cut_short.add(attempt)
        elif event == "failed" and is_repeated:
            failures[attempt] = line["message"]
        elif event in ("stopped", "finished"):
            cut_short.discard(attempt)
            failures = {} if event == "finished" else failures
    if len(failures) >= _MOST_FAILURES:
        last = list(failures.values())[-1].partition("\n")[0]
        raise RunFailure(
            f"stopped for good: {len(failures)} attempts from update {update} failed, "
            f"the last with {last!r}; remove {log} to try again"
        )
    if len(cut_short) >= _MOST_CUT_SHORT:
        raise RunFailure(
            f"stopped for good: {len(cut_short)} attempts from update {update} were "
            f"killed, lost a process or failed before saving anything; remove {log} to try again"
        )
