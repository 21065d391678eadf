"""What was counted on the way, compared with what files hold once they are written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from esm1b.errors import OutputError, UserError, one_line


@contextmanager
def reading_back() -> Iterator[None]:
    """Check files that were just written, whose faults are no mistake of the user.

    Raises:
        OutputError: instead of a `UserError`.
    """
    try:
        yield
    except UserError as error:
        raise OutputError(f"{error}, as counted while it was written") from error


def check_rows(path: Path, expected: int) -> None:
    """Check the number of rows of a Parquet file that was just written.

    Raises:
        OutputError: it has another number of rows, or cannot be read.
    """
    try:
        found = pq.read_metadata(path).num_rows
    except (OSError, pa.ArrowException) as error:
        problem = f"cannot be read after it was written: {one_line(error)}"
        raise OutputError(f"{path}: {problem}; expected {expected} rows") from error
    check_count(path, found, expected, "rows")


def check_count(path: Path, found: int, expected: int, unit: str) -> None:
    """Check the number of things in a file or directory that was just written.

    Raises:
        OutputError: it is not the one that was counted on the way.
    """
    if found != expected:
        raise OutputError(
            f"{path}: {found} {unit}; expected {expected}, as counted while it was written"
        )
