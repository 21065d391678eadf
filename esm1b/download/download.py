"""Fetching UniRef50 and ESM-1b's validation list: resumed, verified and locked."""

import gzip
import logging
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from esm1b.disk_space import explain_full_disk
from esm1b.download.excerpt import fetch_excerpt, parse_limit
from esm1b.download.find_release import (
    DIGEST_DIGITS,
    DamagedFileError,
    Source,
    find_list,
    find_release,
)
from esm1b.download.lock import ALGORITHMS, LOCK, file_digests, intact_download, make_lock
from esm1b.download.mirrors import FileChangedError, MirroredFile
from esm1b.download.partial_file import PartialFile
from esm1b.download.release import (
    CURRENT,
    LIST_MIRRORS,
    MIRRORS,
    VALIDATION_LIST,
    VALIDATION_LIST_IDS,
    check_mirror,
    check_release_name,
)
from esm1b.errors import UserError
from esm1b.files import write_json
from esm1b.outputs import own_contents
from esm1b.stopping import StopAtOnce

_log = logging.getLogger(__name__)

_size = partial(tqdm.format_sizeof, suffix="B")
_TOLERANCE: Final = 0.01  # of the number of ids in the list, which is known to four digits


def download(
    output: Path,
    *,
    release: str | None = None,
    validation_list: bool = False,
    mirrors: Sequence[str] = (),
    limit: str | None = None,
    sample: float | None = None,
    digest: str | None = None,
) -> dict[str, Any]:
    """Fetch a release of UniRef50, or the validation list, and return its lock, `download.json`.

    A file that is already downloaded is only verified. After an interruption a whole file is
    resumed; an excerpt starts over: its beginning, as `limit` (`10MB`, `1000records`), or the
    share `sample` of its records, by a keyed hash of their sequence.

    `release` is `current` or a name such as `2018_03`; the validation list has the clusters that
    ESM-1b held out. `mirrors` has root URLs instead of UniProt's own, the preferred ones first, and
    `digest` (`md5:...`) is checked beside those that the mirrors publish. No digest of the list was
    ever published: its lock records digests and the number of ids.

    Raises:
        UserError: an argument is wrong, no mirror has the release, there is no room for it, or
            `output` holds something else.
        DownloadError: the mirrors do not deliver it, or not the right file.
        Stopped: a signal asked to.
    """
    if (release is None) is not validation_list:
        raise UserError("expected either --release or --validation-list")
    if validation_list and (limit, sample) != (None, None):
        raise UserError(
            "--validation-list: always downloaded whole; expected no --limit and no --sample"
        )
    if release is not None:
        check_release_name(release)
    roots = [check_mirror(url) for url in mirrors or (LIST_MIRRORS if validation_list else MIRRORS)]
    given = _parse_digest(digest)
    _check_part(limit, sample, given)

    def find() -> Source:
        return find_release(release, roots, given) if release else find_list(roots, given)

    with _only_download(output) as stops:
        source = find() if release in (None, CURRENT) else None
        name, number = (source.name, source.release) if source else ("UniRef50", release)
        wanted = {"name": name, "release": number, "limit": limit, "sample": sample}
        if lock := intact_download(output, wanted, given):
            return lock
        source = source or find()
        if limit is None and sample is None:
            return _fetch(source, output, stops)
        _check_room(output, int((sample or 0) * (source.size or 0)), str(source))
        lock = fetch_excerpt(source, output, limit, sample)
        write_json(output / LOCK, lock)
        return lock


def _fetch(source: Source, output: Path, stops: StopAtOnce) -> dict[str, Any]:
    """Fetch a whole file, write its lock and return it."""
    path = output / source.file

    def attempt(remote: MirroredFile) -> dict[str, Any]:
        identity = {"name": source.name, "release": source.release, **source.facts()}
        incomplete = PartialFile(path, identity, remote)
        held = incomplete.bytes_held
        _check_room(output, (source.size or 0) - held, path.name)
        size = "size unknown" if source.size is None else _size(source.size)
        _log.info("%s: fetching %s (%s), %s already here", source, path.name, size, _size(held))
        try:
            incomplete.fill()
            lock = _verified(source, incomplete.path, remote)
        except (DamagedFileError, FileChangedError):
            incomplete.discard()
            raise
        with stops.held_back():
            write_json(output / LOCK, lock)
            incomplete.finish()
        _log.info("%s: %s, verified", path, _size(lock["size"]))
        return lock

    if not (path.exists() and source.digests):
        return source.fetch(attempt, has_digest=bool(source.digests))
    try:  # a file without a lock: the user's own, or the lock was deleted
        lock = _verified(source, path, None)
    except DamagedFileError as error:
        raise UserError(f"{path}: not {source}: {error}; expected no such file") from error
    write_json(output / LOCK, lock)
    _log.info("%s: already downloaded", path)
    return lock


def _verified(source: Source, path: Path, remote: MirroredFile | None) -> dict[str, Any]:
    """Return the lock of a whole file, or raise `DamagedFileError`."""
    size = path.stat().st_size
    if source.size not in (None, size):
        raise DamagedFileError(f"{size} bytes; expected {source.size}")
    digests = file_digests(path, sorted({*ALGORITHMS, *source.digests}))
    source.check(digests)
    more = _list_facts(path) if source.file == VALIDATION_LIST.name else {}
    return make_lock(source, remote, path, digests, **more)


def _list_facts(path: Path) -> dict[str, Any]:
    try:
        with gzip.open(path) as file:
            ids = sum(1 for _ in file)
    except (EOFError, OSError, zlib.error) as error:
        raise DamagedFileError(str(error)) from error
    if abs(ids - VALIDATION_LIST_IDS) > _TOLERANCE * VALIDATION_LIST_IDS:
        _log.warning("%s: %d ids; expected about %d", path.name, ids, VALIDATION_LIST_IDS)
    return {"ids": ids}


def _check_room(output: Path, size: int, name: str) -> None:
    free = shutil.disk_usage(output).free
    if size > free:
        raise UserError(f"{output}: {_size(free)} free; expected {_size(size)} for {name}")


@contextmanager
def _only_download(output: Path) -> Iterator[StopAtOnce]:
    """Make the directory, keep other downloads out of it, and stop when a signal asks to."""
    with (
        StopAtOnce().from_signals() as stops,
        explain_full_disk(output, lambda: "room for the whole file"),
    ):
        output.mkdir(parents=True, exist_ok=True)
        with own_contents(output, lock=".lock", doing="downloads to it"):
            yield stops


def _parse_digest(text: str | None) -> dict[str, str]:
    if text is None:
        return {}
    algorithm, _, digest = text.lower().partition(":")
    digits = DIGEST_DIGITS.get(algorithm)
    if digits is None or not re.fullmatch(rf"[0-9a-f]{{{digits}}}", digest):
        expected = f"{', '.join(DIGEST_DIGITS)}, ':' and hexadecimal digits"
        raise UserError(f"digest {text!r}: expected {expected}")
    return {algorithm: digest}


def _check_part(limit: str | None, sample: float | None, given: Mapping[str, str]) -> None:
    if limit is not None and sample is not None:
        raise UserError(f"limit {limit!r} and sample {sample}: expected one of the two")
    if sample is not None and not 0 < sample < 1:
        raise UserError(f"sample {sample}: expected a number above 0 and below 1")
    if limit is not None:
        parse_limit(limit)
        if given:
            problem = f"limit {limit!r} and a digest of the whole file"
            raise UserError(f"{problem}: expected one of the two")
