"""The lock file of a download: what was fetched, from where, when, and with which digests."""

import datetime
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from esm1b.download.mirrors import Validator
from esm1b.download.partial_file import file_digests
from esm1b.errors import UserError
from esm1b.files import read_json

_log = logging.getLogger(__name__)

LOCK: Final = "download.json"
ALGORITHMS: Final = ("md5", "sha256")
"""The digests that a lock always has; UniProt publishes md5."""

_FORMAT: Final = "esm1b-download"
_VERSION: Final = 1
_WANTED: Final = ("name", "release", "limit", "sample")


def make_lock(
    wanted: Mapping[str, Any],
    *,
    file: str,
    url: str | None,
    validator: Validator,
    size: int,
    digests: Mapping[str, str],
    **facts: Any,
) -> dict[str, Any]:
    """Return the lock of a file.

    Args:
        wanted: what was asked for: `name`, `release`, and `limit` and `sample`, which are None
            for a whole release.
        file: its name.
        url: where its last bytes came from; None if it was found on the disk.
        validator: what the server of that URL said.
        size: bytes.
        digests: by algorithm.
        **facts: what else there is to know.
    """
    now = datetime.datetime.now(datetime.UTC)
    return {
        "format": _FORMAT,
        "format_version": _VERSION,
        **{key: wanted[key] for key in _WANTED},
        "file": file,
        "url": url,
        "etag": validator.etag,
        "last_modified": validator.last_modified,
        "time": now.isoformat(timespec="seconds"),
        "size": size,
        "digests": dict(digests),
        **facts,
    }


def intact_download(
    output: Path, wanted: Mapping[str, Any], digests: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the lock in `output` if its file is there and is what the lock says.

    A file that has been damaged since is removed.

    Args:
        output: a directory of downloads.
        wanted: what is asked for now.
        digests: that the user gives; the file must have them.

    Raises:
        UserError: something else was downloaded to `output`, or the file has another digest.
    """
    if not (output / LOCK).exists():
        return None
    lock: dict[str, Any] = read_json(output / LOCK)
    if (
        not isinstance(lock, dict)
        or (lock.get("format"), lock.get("format_version")) != (_FORMAT, _VERSION)
        or not {*_WANTED, "file", "digests"} <= lock.keys()
    ):
        raise UserError(
            f"{output / LOCK}: not of this version of the program; expected another directory"
        )
    path = output / lock["file"]
    if not path.exists():
        return None
    if any(lock[key] != wanted[key] for key in _WANTED):
        raise UserError(
            f"{output}: holds {_words(lock)}; expected another directory for {_words(wanted)}"
        )
    _log.info("%s: checking that it is still what was downloaded", path)
    found = file_digests(path, {*lock["digests"], *digests})
    if any(found[name] != digest for name, digest in lock["digests"].items()):
        _log.warning("%s: damaged since it was downloaded; removed, to be fetched again", path)
        path.unlink()
        return None
    for name, digest in digests.items():
        if found[name] != digest:
            raise UserError(f"{path}: {name} {found[name]}; expected {digest}")
    return lock


def _words(wanted: Mapping[str, Any]) -> str:
    text = f"{wanted['name']} {wanted['release']}"
    if wanted["limit"]:
        text += f", its first {wanted['limit']}"
    if wanted["sample"]:
        text += f", a sample of {wanted['sample']}"
    return text


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
