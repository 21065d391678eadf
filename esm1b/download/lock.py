"""download.json, the lock of a download: written here, and checked by the next command."""

import datetime
import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from esm1b.download.find_release import Source
from esm1b.download.mirrors import MirroredFile
from esm1b.errors import UserError
from esm1b.files import read_json

_log = logging.getLogger(__name__)

LOCK: Final = "download.json"
ALGORITHMS: Final = ("md5", "sha256")  # of every lock; UniProt publishes md5
_FORMAT: Final = {"format": "esm1b-download", "format_version": 1}
_WANTED: Final = ("name", "release", "limit", "sample")
_BUFFER_BYTES: Final = 1 << 20


def make_lock(
    source: Source, remote: MirroredFile | None, file: Path, digests: Mapping[str, str], **more: Any
) -> dict[str, Any]:
    """Return the lock of a file; `more` has entries to add or to replace.

    `remote` is None if the file was found on the disk. A partial file gets its final name.
    """
    return {
        **_FORMAT,
        "name": source.name,
        "release": source.release,
        "limit": None,
        "sample": None,
        "file": file.name.removesuffix(".partial"),
        "url": remote and remote.url,
        "etag": remote and remote.validator.etag,
        "last_modified": remote and remote.validator.last_modified,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "size": file.stat().st_size,
        "digests": dict(digests),
        "verified_by": source.verified_by,
        **more,
    }


def intact_download(
    output: Path, wanted: Mapping[str, Any], given: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the lock in `output` if its file exists and matches it.

    A file that has been damaged since is removed. `wanted` has the requested `name`, `release`,
    `limit` and `sample`, and `given` the user's digests, by algorithm.

    Raises:
        UserError: something else was downloaded to `output`, or the file has another digest.
    """
    if not (output / LOCK).exists():
        return None
    lock: dict[str, Any] = read_json(output / LOCK)
    is_known = isinstance(lock, dict) and _FORMAT.items() <= lock.items()
    if not is_known or not {*_WANTED, "file", "digests"} <= lock.keys():
        problem = "not of this version of the program"
        raise UserError(f"{output / LOCK}: {problem}; expected another directory")
    path = output / lock["file"]
    if not path.exists():
        return None
    if any(lock[key] != wanted[key] for key in _WANTED):
        raise UserError(
            f"{output}: holds {_words(lock)}; expected another directory for {_words(wanted)}"
        )
    _log.info("%s: checking that it is unchanged since it was downloaded", path)
    found = file_digests(path, {*lock["digests"], *given})
    if any(found[name] != digest for name, digest in lock["digests"].items()):
        _log.warning("%s: damaged since it was downloaded; removed, to be fetched again", path)
        path.unlink()
        return None
    for name, digest in given.items():
        if found[name] != digest:
            raise UserError(f"{path}: {name} {found[name]}; expected {digest}")
    _log.info("%s: already downloaded", path)
    return lock


def read_source(path: Path) -> dict[str, Any]:
    """Return the name, release and URL in a lock, and its limit or sample if it has one.

    Any JSON object with a `name` and a `release` will do.

    Raises:
        UserError: the file is missing, is not JSON or has no name and release.
    """
    content = read_json(path)
    for key in ("name", "release"):
        if not isinstance(content, dict) or not isinstance(content.get(key), str):
            raise UserError(f"{path}: no {key}; expected download.json of esm1b download")
    keys = ("name", "release", "url", "limit", "sample")
    return {key: content[key] for key in keys if content.get(key) is not None}


def file_digests(path: Path, algorithms: Iterable[str]) -> dict[str, str]:
    """Return the digests of a file, in hexadecimal, by algorithm."""
    digests = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    shown: dict[str, Any] = {"desc": f"verify {path.name}", "disable": None}
    size = path.stat().st_size
    with path.open("rb") as raw, tqdm.wrapattr(raw, "read", size, **shown) as file:
        while block := file.read(_BUFFER_BYTES):
            for digest in digests.values():
                digest.update(block)
    return {name: digest.hexdigest() for name, digest in digests.items()}


def _words(wanted: Mapping[str, Any]) -> str:
    limit = f", its first {wanted['limit']}" if wanted["limit"] else ""
    sample = f", a sample of {wanted['sample']}" if wanted["sample"] else ""
    return f"{wanted['name']} {wanted['release']}{limit}{sample}"
