from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]  # not in __all__

from esm1b.errors import RunFailure, UserError
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.distributed.reports import Report, exchange, problems

TOKENS = {"tokens": "91bc22"}


def test_two_culprits_are_both_named() -> None:
    reports = [
        Report(host="n1", facts=TOKENS | {"torch": "2.13.0"}),
        Report(host="n1", facts=TOKENS | {"torch": "2.13.0"}),
        Report(host="n2", facts={"tokens": "5f3a1c", "torch": "2.13.0"}),
        Report(host="n2", facts={"tokens": "5f3a1c", "torch": "2.13.0"}),
        Report(host="n3", facts=TOKENS | {"torch": "2.12.0"}),
        Report(host="n3", facts=TOKENS | {"torch": "2.12.0"}, problems=["tokens: unreadable"]),
    ]
    assert problems(reports) == [
        "n3 (rank 5): tokens: unreadable",
        "n2 (ranks 2-3): tokens 5f3a1c, others 91bc22",
        "n3 (ranks 4-5): torch 2.12.0, others 2.13.0",
    ]


def test_the_first_process_counts_where_two_values_are_as_frequent() -> None:
    reports = [Report(host="n1", facts=TOKENS), Report(host="n2", facts={"tokens": "5f3a1c"})]
    assert problems(reports) == ["n2 (rank 1): tokens 5f3a1c, others 91bc22"]


def test_the_first_node_may_be_the_culprit() -> None:
    reports = [Report(host="n1", facts={"tokens": "5f3a1c"})]
    reports += [Report(host=host, facts=TOKENS) for host in ("n2", "n3")]
    assert problems(reports) == ["n1 (rank 0): tokens 5f3a1c, others 91bc22"]


def test_what_all_have_alike_needs_no_names() -> None:
    reports = [Report(host=host, problems=["tokens: none"]) for host in ("n1", "n2")]
    assert problems(reports) == ["tokens: none"]
    assert problems([Report(facts=TOKENS)] * 3) == []


def test_nodes_with_the_same_fault_are_one_culprit_and_a_missing_fact_is_none() -> None:
    reports = [Report(host="n1", facts=TOKENS), Report(host="n1", facts=TOKENS)]
    reports += [Report(host=host, problems=["no manifest.json"]) for host in ("n2", "n3")]
    assert problems(reports) == ["n2, n3 (ranks 2-3): no manifest.json"]


def endings(reports: list[Report], *, absent: int = 0, limit_seconds: float = 10) -> list[object]:
    """Return what `exchange` returns or raises in the first processes; the last ones are absent."""
    store, processes = HashStore(), len(reports) + absent

    def take_part(rank: int) -> object:
        place = Place(rank=rank, local_rank=rank, processes=processes)
        try:
            return exchange("nodes", reports[rank], place, store, limit_seconds=limit_seconds)
        except (UserError, RunFailure) as error:
            return type(error).__name__, str(error)

    with ThreadPoolExecutor(len(reports)) as executor:
        return list(executor.map(take_part, range(len(reports))))


def test_all_learn_the_address_of_a_process_elsewhere() -> None:
    reports = [
        Report(host="n1", address="127.0.0.1"),
        Report(host="n1", address="10.77.0.11"),
        Report(host="n2"),
        Report(host="n3", address="10.77.0.13"),
    ]
    assert endings(reports) == ["10.77.0.13"] * 4
    assert endings(reports[:2]) == [None, None]


def test_all_raise_the_same() -> None:
    reports = [Report(host=f"n{rank}", facts={"torch": f"2.{rank // 2}"}) for rank in range(3)]
    message = "n2 (rank 2): torch 2.1, others 2.0"
    assert endings(reports) == [("SharedUserError", message)] * 3


def test_who_does_not_report_is_named() -> None:
    message = "ranks 2-3 of 4 processes came, but did not report on the node within 0.2 s"
    assert (
        endings([Report(), Report()], absent=2, limit_seconds=0.2) == [("RunFailure", message)] * 2
    )


def test_one_process_alone() -> None:
    assert exchange("nodes", Report(), Place(), None, limit_seconds=1) is None
    with pytest.raises(UserError, match=r"^tokens: none$"):
        exchange("nodes", Report(problems=["tokens: none"]), Place(), None, limit_seconds=1)
