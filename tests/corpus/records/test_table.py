import random

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from esm1b.corpus.records.table import NONE, gather

PIECES = st.lists(st.none() | st.binary(max_size=30), max_size=60)


@given(PIECES, st.randoms(use_true_random=False))
def test_gathered_pieces_are_those_of_the_text(
    pieces: list[bytes | None], order: random.Random
) -> None:
    text = b"".join(piece or b"" for piece in pieces)
    rows = []
    start = 0
    for piece in pieces:
        rows.append((start, NONE if piece is None else len(piece), piece))
        start += len(piece or b"")
    order.shuffle(rows)
    found = gather(
        text,
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int32),
        pa.large_binary(),
    )
    assert found.to_pylist() == [row[2] for row in rows]
