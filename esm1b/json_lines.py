"""Files that grow by one JSON object a line and stay readable whatever cuts a line short."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class JsonLines:
    """Appends lines to a file, new or existing.

    A line that a kill or a full disk cut short is ended before the next one is written.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b", buffering=0)
        self._is_torn = False
        if self._file.seek(0, os.SEEK_END) > 0:
            self._file.seek(-1, os.SEEK_END)
            self._is_torn = self._file.read(1) != b"\n"

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line.

        Raises:
            OSError: not all of it could be written.
        """
        data = b"\n" * self._is_torn + json.dumps(line).encode() + b"\n"
        while data:
            written = self._file.write(data)  # less than all of it on a disk that fills up
            data = data[written:]
            self._is_torn = bool(data)

    def sync(self) -> None:
        """Flush the lines to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_json_lines(path: Path, *, having: str) -> list[dict[str, Any]]:
    """Return the objects of a file that have the key `having`; lines cut short are left out.

    Raises:
        OSError: the file cannot be read.
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
