import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esm1b.corpus.records.table import NONE, ROW, TEXT_FIELDS, Rows, drop_duplicate_ids, sort_rows
from esm1b.corpus.sharding.spill import read_interval, write_run
from esm1b.errors import UserError

Record = tuple[int, str, str]


def rows_of(records: list[Record], names: list[str | None] | None = None) -> Rows:
    index = np.zeros(len(records), ROW)
    text = b""
    for place, (order, identifier, sequence) in enumerate(records):
        name = names[place] if names else None
        values = (identifier, name, None, None, sequence)
        index["order"][place], index["start"][place] = order, len(text)
        start = 0
        for column, value in enumerate(values):
            index["starts"][place, column] = start
            index["lengths"][place, column] = NONE if value is None else len(value)
            start += len(value or "")
        text += "".join(value or "" for value in values).encode()
    return Rows(index=index, text=text)


def records_of(rows: Rows) -> list[Record]:
    return [
        (
            int(rows.index["order"][place]),
            (rows.value("id", place) or b"").decode(),
            (rows.value("sequence", place) or b"").decode(),
        )
        for place in range(len(rows))
    ]


ORDERS = st.integers(0, 2**64 - 1) | st.sampled_from([0, 2**52, 2**63, 2**64 - 1])


@given(
    runs=st.lists(st.lists(ORDERS, max_size=15), min_size=1, max_size=4),
    cuts=st.lists(ORDERS, max_size=5),
)
@settings(max_examples=50, deadline=None)
def test_intervals_of_all_runs_hold_every_record_once(
    tmp_path_factory: pytest.TempPathFactory, runs: list[list[int]], cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    records = [
        [(order, f"id{number}", "MKV" * (order % 5)) for number, order in enumerate(run)]
        for run in runs
    ]
    paths = []
    for number, run in enumerate(records):
        paths.append(folder / str(number))
        rows = sort_rows(Rows.concatenate([rows_of(run[:4]), rows_of(run[4:])])).compact()
        assert write_run(paths[-1], rows) == rows.size
    edges = sorted({0, *cuts, 2**64})
    found = []
    for low, high in itertools.pairwise(edges):
        part = records_of(sort_rows(read_interval(paths, low, high)))
        assert [order for order, _, _ in part] == sorted(order for order, _, _ in part)
        assert all(low <= order < high for order, _, _ in part)
        found += part
    assert sorted(found) == sorted(record for run in records for record in run)


def test_a_run_that_was_cut_short(tmp_path: Path) -> None:
    write_run(tmp_path / "run", rows_of([(1, "a", "MKV")]))
    content = (tmp_path / "run").read_bytes()
    (tmp_path / "run").write_bytes(content[:-1])
    with pytest.raises(EOFError, match="a run of records ends early"):
        read_interval([tmp_path / "run"], 0, 2**64)


def test_colliding_hashes_keep_both_ids() -> None:
    rows = rows_of([(1, "z", "M"), (2, "b", "K"), (2, "a", "W"), (2, "b", "A"), (3, "c", "V")])
    kept = drop_duplicate_ids(rows)
    assert records_of(kept) == [(1, "z", "M"), (2, "a", "W"), (2, "b", "A"), (3, "c", "V")]
    with pytest.raises(UserError, match="duplicate id 'b'; expected unique ids"):
        drop_duplicate_ids(rows, strict=True)
    assert records_of(drop_duplicate_ids(kept, strict=True)) == records_of(kept)


@given(st.permutations([0, 1, 2, 3, 4]))
def test_the_smallest_sequence_and_then_the_smallest_name_count(order: list[int]) -> None:
    records = [(1, "a", "KK"), (1, "a", "KK"), (1, "a", "KK"), (1, "a", "MA"), (2, "b", "W")]
    names = ["y", None, "x", None, None]
    rows = rows_of([records[place] for place in order], [names[place] for place in order])
    kept = drop_duplicate_ids(sort_rows(rows))
    assert records_of(kept) == [(1, "a", "KK"), (2, "b", "W")]
    assert kept.value("name", 0) is None
    assert TEXT_FIELDS[1] == "name"
