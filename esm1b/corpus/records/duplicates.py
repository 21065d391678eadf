"""One record per id."""

from itertools import groupby
from typing import Any

import numpy as np

from esm1b.corpus.records.table import Rows
from esm1b.errors import UserError


def sort_rows(rows: Rows) -> Rows:
    """Return the records by rising hash of the id; those with equal hashes in any order."""
    return rows.take(np.argsort(rows.index["order"]))


def drop_duplicate_ids(rows: Rows, *, strict: bool = False) -> Rows:
    """Return records that `sort_rows` sorted, with one per id, in order of (hash, id).

    Of records with one id the one with the smallest sequence is kept; of those with one sequence
    too, the one whose name, number of members, taxon, taxon's id and representative are the
    smallest, a missing value before all others. The choice is the same for any order of the input.

    Raises:
        UserError: `strict`, and an id is that of several records; names the first in order.
    """
    order = rows.index["order"]
    # equal ids have equal hashes; unequal ids with equal hashes are all but impossible
    is_tied = np.zeros(len(order), np.bool_)
    is_tied[1:] = order[1:] == order[:-1]
    is_tied[:-1] |= is_tied[1:]
    if not is_tied.any():
        return rows
    ranked = sorted((_rank(rows, place), place) for place in np.flatnonzero(is_tied).tolist())
    kept = []
    for (_, identifier), same in groupby(ranked, key=lambda item: item[0][:2]):
        (_, best), *others = same
        if others and strict:
            name = str(identifier[1], "utf-8")
            raise UserError(f"duplicate id {name!r}; expected unique ids")
        kept.append(best)
    # untied rows stay where they are; those kept of a tie follow one another in its place
    places = np.concatenate([np.flatnonzero(~is_tied), np.array(kept, np.int64)])
    return rows.take(places[np.argsort(order[places], kind="stable")])


def _rank(rows: Rows, place: int) -> tuple[Any, ...]:
    """Return what decides between records of one hash: order, id, sequence, the other fields."""

    def text(name: str) -> tuple[bool, bytes]:
        value = rows.value(name, place)
        return value is not None, value or b""

    order, members, taxon_id = rows.index[["order", "member_count", "taxon_id"]][place].tolist()
    name, taxon, representative = map(text, ("name", "taxon", "representative_id"))
    return order, text("id"), text("sequence"), name, members, taxon, taxon_id, representative
