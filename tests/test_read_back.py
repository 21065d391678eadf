from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from esm1b.errors import OutputError, UserError
from esm1b.read_back import check_count, check_rows, reading_back


def test_rows_are_counted_again(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"id": ["a", "b"]}), path)
    check_rows(path, 2)
    with pytest.raises(OutputError) as caught:
        check_rows(path, 3)
    assert str(caught.value) == f"{path}: 2 rows; expected 3, as counted while it was written"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(OutputError, match=r"cannot be read after it was written: .*; expected 2"):
        check_rows(path, 2)


def test_a_count_is_compared(tmp_path: Path) -> None:
    check_count(tmp_path, 2, 2, "arrays")
    with pytest.raises(OutputError, match=r": 1 arrays; expected 2, as counted while it was"):
        check_count(tmp_path, 1, 2, "arrays")


def test_a_fault_of_our_own_is_no_mistake_of_the_user() -> None:
    with pytest.raises(OutputError, match=r"^a: 1; expected 2, as counted while it was written$"):  # noqa: SIM117
        with reading_back():
            raise UserError("a: 1; expected 2")
