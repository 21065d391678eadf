"""Files that grow by one JSON object a line, and stay readable whatever cuts a line short."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class JsonLines:
    """Adds lines to the end of a file; a context manager.

    A line that was cut short, by a kill or a full disk, is ended before the next one.

    Args:
        path: of the file, which need not be there.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b", buffering=0)
        self._is_torn = False
        if self._file.seek(0, os.SEEK_END) > 0:
            self._file.seek(-1, os.SEEK_END)
            self._is_torn = self._file.read(1) != b"\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, line: Mapping[str, Any]) -> None:
        """Add a line.

        Raises:
            OSError: not all of it could be written.
        """
        data = b"\n" * self._is_torn + json.dumps(line).encode() + b"\n"
        while data:
            written = self._file.write(data)  # less than all of it on a disk that fills up
            data = data[written:]
            self._is_torn = bool(data)

    def sync(self) -> None:
        """Flush what was written to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_json_lines(path: Path, *, having: str) -> list[dict[str, Any]]:
    """Return the objects of a file that have the key `having`; what was cut short is left out.

    Raises:
        OSError: it cannot be read.
    """
    found = []
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and having in line:
            found.append(line)
    return found
