"""One record per id."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esm1b.corpus.records.table import Rows


def sort_rows(rows: Rows) -> Rows:
    """Return the records in the order of their hashes; those with equal ones in any order."""
    return rows.take(np.argsort(rows.index["order"]))


def drop_duplicate_ids(rows: Rows) -> Rows:
    """Return records that `sort_rows` sorted, with one per id, in order of (hash, id).

    Of records with one id the one with the smallest sequence counts, and of those with one
    sequence too the one whose name, number of members, taxon, its id and representative are the
    smallest, with a missing value before all others. The choice is the same for any order of the
    input.
    """
    order = rows.index["order"]
    is_tied = _is_tied(order)
    tied = np.flatnonzero(is_tied)
    if not len(tied):
        return rows
    ranked = sorted((_rank(rows, place), place) for place in tied.tolist())
    keep = [
        place
        for number, (rank, place) in enumerate(ranked)
        if number == 0 or ranked[number - 1][0][:2] != rank[:2]
    ]
    # untied rows stay where they are; those kept of a tie follow one another in its place
    places = np.concatenate([np.flatnonzero(~is_tied), np.array(keep, dtype=np.int64)])
    return rows.take(places[np.argsort(order[places], kind="stable")])


def duplicated_id(rows: Rows) -> str | None:
    """Return the first id in order that several of the records have, which `sort_rows` sorted."""
    tied = np.flatnonzero(_is_tied(rows.index["order"])).tolist()
    ranked = sorted(_rank(rows, place)[:2] for place in tied)
    for one, other in pairwise(ranked):
        if one == other:
            return str(one[1][1], "utf-8")
    return None


def _is_tied(order: NDArray[np.uint64]) -> NDArray[np.bool_]:
    # equal ids have equal hashes; unequal ids with equal hashes are all but impossible
    is_tied = np.zeros(len(order), dtype=np.bool_)
    is_tied[1:] = order[1:] == order[:-1]
    is_tied[:-1] |= is_tied[1:]
    return is_tied


def _rank(rows: Rows, place: int) -> tuple[Any, ...]:
    """Return what decides between records of one hash: order, id, sequence and the other fields."""

    def text(name: str) -> tuple[bool, bytes]:
        value = rows.value(name, place)
        return value is not None, value or b""

    row = rows.index[place]
    return (
        int(row["order"]),
        text("id"),
        text("sequence"),
        text("name"),
        int(row["member_count"]),
        text("taxon"),
        int(row["taxon_id"]),
        text("representative_id"),
    )
