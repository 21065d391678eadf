"""Putting finished files in the place of old ones, so that a kill at any moment loses neither.

A replacement is two renames: of the old content to its temporary name, then of the new one to the
final name. Between them there is nothing at the final name, and whoever comes next finishes it.
"""

import errno
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from esm1b.files import TEMPORARY, fsync


def move_into_place(path: Path, finished: Path, beside: Mapping[Path, Path] | None = None) -> None:
    """Move a temporary file or directory to `path`, after those `beside` it to their places.

    What was at `path` is left under a temporary name, for `clear_temporaries`.
    """
    replaced = finished.with_suffix(".replaced")
    while True:
        with suppress(FileNotFoundError):
            os.rename(path, replaced)
        try:
            _finish(path, finished, beside or {})
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            remove_temporary(replaced)  # without locks, another process may have come in between


def _finish(path: Path, finished: Path, beside: Mapping[Path, Path]) -> None:
    for written, file in beside.items():
        os.replace(written, file)
    os.rename(finished, path)
    with suppress(FileNotFoundError):  # or, half removed, it would look like one to restore
        os.rename(finished.with_suffix(".replaced"), finished)
    fsync(path.parent)


def clear_temporaries(path: Path, token: str | None = None) -> None:
    """Finish a replacement of `path` that was cut short, then remove the temporaries.

    They are those with `token`, or without one all of `path`, whose writers must be dead.
    """
    found = _temporaries(path, token)
    for match, entry in found:
        if match["kind"] != "replaced" or match["name"] != path.name or path.exists():
            continue
        finished = entry.with_suffix(".partial")
        if finished.exists():
            beside = {
                other: path.with_name(its["name"])
                for its, other in found
                if its["token"] == match["token"] and its["kind"] == "partial" and other != finished
            }
            _finish(path, finished, beside)
        else:
            os.rename(entry, path)
    for _, entry in _temporaries(path, token):
        remove_temporary(entry)


def _temporaries(path: Path, token: str | None) -> list[tuple[re.Match[str], Path]]:
    """Return the temporaries of `path`, with `token` if there is one, and of their companions."""
    found = [
        (match, entry)
        for entry in (path.parent.iterdir() if path.parent.is_dir() else ())
        if (match := TEMPORARY.fullmatch(entry.name))
    ]
    named = {match["token"] for match, _ in found if match["name"] == path.name}
    tokens = {token} if token else named - {None}
    return [
        (match, entry)
        for match, entry in found
        if match["token"] in tokens or (token is None and match["name"] == path.name)
    ]


def remove_temporary(path: Path) -> None:
    """Remove a temporary file or directory, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
