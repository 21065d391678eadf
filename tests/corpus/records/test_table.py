import random

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from esm1b.corpus.records.table import NONE, gather

PIECES = st.lists(st.none() | st.binary(max_size=30), max_size=20)


@given(st.lists(PIECES, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_gathered_pieces_are_those_of_their_texts(
    pieces: list[list[bytes | None]], order: random.Random
) -> None:
    texts = [b"".join(piece or b"" for piece in text) for text in pieces]
    rows = []
    for number, text in enumerate(pieces):
        start = 0
        for piece in text:
            length = NONE if piece is None else len(piece)
            rows.append((number, start, length, piece))
            start += len(piece or b"")
    order.shuffle(rows)
    found = gather(
        texts,
        np.array([row[0] for row in rows], np.int32),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[2] for row in rows], np.int32),
        pa.binary_view(),
        pa.large_binary(),
    )
    assert found.to_pylist() == [row[3] for row in rows]
