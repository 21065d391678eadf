"""Where the sequences of a corpus come from, as a download's lock file says."""

from pathlib import Path
from typing import Any, Final

from esm1b.errors import UserError
from esm1b.files import read_json

__all__ = ["read_source"]

_ALWAYS: Final = ("name", "release")
_IF_THERE: Final = ("url", "limit", "sample")


def read_source(path: Path) -> dict[str, Any]:
    """Return name, release and URL, and the part of the release if it is not the whole.

    Args:
        path: `download.json` of `esm1b download`, or other JSON with a `name` and a `release`.

    Raises:
        UserError: the file is missing, is not JSON or has no name and release.
    """
    content = read_json(path)
    for key in _ALWAYS:
        if not isinstance(content, dict) or not isinstance(content.get(key), str):
            raise UserError(f"{path}: no {key}; expected download.json of esm1b download")
    return {
        key: content[key]
        for key in (*_ALWAYS, *_IF_THERE)
        if key in _ALWAYS or content.get(key) is not None
    }
