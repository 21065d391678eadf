"""What every process reports before they train, judged as a whole by rank 0.

The reports go through the store where the processes met, which works where collectives may not.
All have reported before one of them ends, so that one message names every culprit.

    rank 0                                  rank r = 1, 2, ...
    -----------------------------------     -----------------------------------
                                      <---  r = report
    verdict = problems, peer          --->  raises them, if any
                                      <---  read r
"""

import json
import logging
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, Final

from torch.distributed import (  # type: ignore[attr-defined]  # not all are in __all__
    DistError,
    PrefixStore,
    Store,
)

from esm1b.errors import RunFailure, SharedUserError, one_line
from esm1b.pretraining.distributed.network import is_loopback
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.distributed.rendezvous import ranks_in_words

_log = logging.getLogger(__name__)

_READING_SECONDS: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one process found.

    Attributes:
        host: name of its node.
        facts: texts that must be the same in all processes, by name.
        problems: faults of this process, whatever the others have.
        address: address of its node on the route to rank 0; None without one.
    """

    host: str = field(default_factory=lambda: platform.node())
    facts: Mapping[str, str] = field(default_factory=dict)
    problems: Sequence[str] = ()
    address: str | None = None


def problems(reports: Sequence[Report]) -> list[str]:
    """Return every fault with the nodes and ranks that have it; without them where all have it.

    A fact that differs is the fault of those that have it otherwise than most, or than rank 0
    where two values are as frequent.
    """
    found: dict[str, list[int]] = {}
    for rank, report in enumerate(reports):
        for problem in report.problems:
            found.setdefault(problem, []).append(rank)
    for name in dict.fromkeys(name for report in reports for name in report.facts):
        values = [report.facts.get(name) for report in reports]
        counts = Counter(value for value in values if value is not None)
        usual = max(counts, key=lambda value: counts[value])  # the first of several
        for rank, value in enumerate(values):
            if value not in (None, usual):
                found.setdefault(f"{name} {value}, others {usual}", []).append(rank)
    return [
        problem if len(ranks) == len(reports) else f"{_where(ranks, reports)}: {problem}"
        for problem, ranks in found.items()
    ]


def exchange(
    topic: str, report: Report, place: Place, store: Store | None, *, limit_seconds: float
) -> str | None:
    """Report to rank 0, and return the address of a process on another host than rank 0, if any.

    Collective. `store` is where the processes met; None for a single one.

    Raises:
        UserError: some process has a fault; every process raises all of them.
        RunFailure: some process did not report within `limit_seconds`; every process names it.
    """
    if store is None:
        verdict = _judge([report])
    else:
        store = PrefixStore(topic, store)
        store.set(str(place.rank), json.dumps(asdict(report)))
        if place.rank == 0:
            verdict = _collect(place, store, limit_seconds)
        else:
            verdict = _await_verdict(place, store, limit_seconds)
    if verdict["late"]:
        raise RunFailure(verdict["late"])
    if verdict["problems"]:
        raise SharedUserError("; ".join(verdict["problems"]))
    peer: str | None = verdict["peer"]
    return peer


def _collect(place: Place, store: Store, limit_seconds: float) -> dict[str, Any]:
    """Be rank 0: read the reports, write the verdict and let the others read it."""
    ranks = [*range(place.processes)]
    missing: list[int] = []
    try:
        store.wait([str(rank) for rank in ranks], timedelta(seconds=limit_seconds))
        read = store.multi_get([str(rank) for rank in ranks])
        verdict = _judge([Report(**json.loads(text)) for text in read])
    except DistError:
        missing = [rank for rank in ranks if not store.check([str(rank)])]
        late = (
            f"{ranks_in_words(missing)} of {place.processes} processes came, but did not report "
            f"on the node within {limit_seconds:g} s"
        )
        verdict = {"problems": [], "peer": None, "late": late}
    store.set("verdict", json.dumps(verdict))
    if verdict["late"] or verdict["problems"]:
        # the store ends with this process
        with suppress(DistError):
            keys = [f"read {rank}" for rank in ranks[1:] if rank not in missing]
            store.wait(keys, timedelta(seconds=_READING_SECONDS))
    return verdict


def _await_verdict(place: Place, store: Store, limit_seconds: float) -> dict[str, Any]:
    try:
        store.wait(["verdict"], timedelta(seconds=limit_seconds + _READING_SECONDS))
        verdict: dict[str, Any] = json.loads(store.get("verdict"))
        store.set(f"read {place.rank}", "")
    except DistError as error:
        message = (
            f"rank {place.rank} on {platform.node()} waited for rank 0 to compare the nodes: "
            f"{one_line(error)}"
        )
        _log.error(message)  # only rank 0 reports failures that all processes share
        raise RunFailure(message) from error
    return verdict


def _judge(reports: Sequence[Report]) -> dict[str, Any]:
    elsewhere = [report.address for report in reports if report.host != reports[0].host]
    peers = [address for address in elsewhere if address and not is_loopback(address)]
    return {"problems": problems(reports), "peer": next(iter(peers), None), "late": ""}


def _where(ranks: Sequence[int], reports: Sequence[Report]) -> str:
    """Return "n2, n3 (ranks 2-5)"."""
    hosts = ", ".join(dict.fromkeys(reports[rank].host for rank in ranks))
    return f"{hosts} ({ranks_in_words(ranks)})"
