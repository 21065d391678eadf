"""Fetching UniRef50 and ESM-1b's validation list: resumed, verified and locked."""

import fcntl
import gzip
import logging
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from esm1b.disk_space import explain_full_disk
from esm1b.download.excerpt import Limit, parse_limit
from esm1b.download.excerpt_download import fetch_excerpt
from esm1b.download.find_release import Source, find_release, validation_list
from esm1b.download.lock import ALGORITHMS, LOCK, intact_download, make_lock
from esm1b.download.metalink import DIGEST_DIGITS
from esm1b.download.mirrors import MirroredFile, Patience, Validator
from esm1b.download.partial_file import PartialFile, file_digests
from esm1b.download.release import (
    CURRENT,
    LIST_MIRRORS,
    MIRRORS,
    VALIDATION_LIST_IDS,
    check_mirror,
    check_release_name,
)
from esm1b.errors import DownloadError, UserError
from esm1b.files import write_json
from esm1b.stopping import StopAtOnce

_log = logging.getLogger(__name__)

_TOLERANCE: Final = 0.01  # of the number of ids in the list, which is known to four digits


def download_release(
    release: str,
    output: Path,
    *,
    mirrors: Sequence[str] = (),
    limit: str | None = None,
    sample: float | None = None,
    digest: str | None = None,
    patience: Patience | None = None,
) -> dict[str, Any]:
    """Fetch a release of UniRef50 to `output` and return its lock, `download.json`.

    What is there already is verified, not fetched. A whole release that was stopped goes on where
    it was; an excerpt begins anew.

    Args:
        release: `current`, or a name such as `2018_03`.
        output: the directory to write to.
        mirrors: to ask in this order, instead of UniProt's own.
        limit: fetch only the beginning: `10MB` or `1000records`.
        sample: keep this share of the records, by a keyed hash of their sequence.
        digest: that the file must have, as `md5:...`, beside those that the mirrors publish.
        patience: with the mirrors.

    Raises:
        UserError: an argument is wrong, no mirror has the release, there is no room for it, or
            `output` holds something else.
        DownloadError: the mirrors do not deliver it, or not what it should be.
        Stopped: a signal asked to.
    """
    check_release_name(release)
    roots = [check_mirror(mirror) for mirror in mirrors or MIRRORS]
    given = _parse_digest(digest)
    part = _parse_part(limit, sample, given)
    patience = patience or Patience()
    wanted = {"name": "UniRef50", "release": release, "limit": limit, "sample": sample}
    with StopAtOnce().from_signals() as stops, _alone(output), explain_full_disk(output, _need):
        lock = None if release == CURRENT else intact_download(output, wanted, given)
        if lock is None:
            try:
                source = find_release(release, roots, given, patience)
            except DownloadError as error:
                raise DownloadError(f"UniRef50 {release}: {error}") from error
            if release == CURRENT:
                wanted["release"] = source.release
                lock = intact_download(output, wanted, given)
        if lock is not None:
            _log.info("%s: is there already; nothing is fetched", output / lock["file"])
        elif part is None:
            lock = _fetch(source, wanted, output, patience, stops)
        else:
            _check_room(output, int((sample or 0) * (source.size or 0)), str(source))
            lock = fetch_excerpt(source, wanted, output, patience, part)
            write_json(output / LOCK, lock)
    return lock


def download_validation_list(
    output: Path,
    *,
    mirrors: Sequence[str] = (),
    digest: str | None = None,
    patience: Patience | None = None,
) -> dict[str, Any]:
    """Fetch the list of the clusters that ESM-1b held out; as `download_release`.

    No digest of it has been published: the lock records the one that it has, and how many ids.
    """
    roots = [check_mirror(mirror) for mirror in mirrors or LIST_MIRRORS]
    given = _parse_digest(digest)
    source = validation_list(roots, given)
    wanted = {"name": source.name, "release": source.release, "limit": None, "sample": None}
    with StopAtOnce().from_signals() as stops, _alone(output), explain_full_disk(output, _need):
        lock = intact_download(output, wanted, given)
        if lock is not None:
            _log.info("%s: is there already; nothing is fetched", output / lock["file"])
            return lock
        return _fetch(source, wanted, output, patience or Patience(), stops, _list_facts)


class _DamagedError(Exception):
    """A file is not what it should be; the message says why."""


def _fetch(
    source: Source,
    wanted: Mapping[str, Any],
    output: Path,
    patience: Patience,
    stops: StopAtOnce,
    facts: Callable[[Path], dict[str, Any]] = lambda path: {},
) -> dict[str, Any]:
    """Fetch a whole file, write its lock and return it.

    `facts` returns what else the lock says of the file, or raises `_DamagedError`.
    """
    path = output / source.path.name
    if path.exists() and source.digests:  # but no lock: the user's own, or it was deleted
        try:
            lock = _verified(source, wanted, path, None, Validator(), facts)
        except _DamagedError as error:
            raise UserError(f"{path}: not {source}: {error}; expected no such file") from error
        write_json(output / LOCK, lock)
        _log.info("%s: is there already; nothing is fetched", path)
        return lock
    urls = list(source.urls)
    problems = []
    for _ in range(2):
        partial = PartialFile(path, _identity(source))
        _check_room(output, (source.size or 0) - partial.bytes_held, path.name)
        remote = MirroredFile(
            urls,
            patience=patience,
            size=source.size,
            has_digest=bool(source.digests),
            validators=partial.validators,
        )
        _fill(partial, remote, source)
        try:
            validator = partial.validators.get(partial.url or "", Validator())
            lock = _verified(source, wanted, partial.path, partial.url, validator, facts)
        except _DamagedError as error:
            problems.append(f"{' and '.join(partial.validators)}: {error}")
            _log.warning("%s; nothing of it is kept", problems[-1])
            partial.discard()
            urls = remote.others_first()
            continue
        with stops.held_back():
            write_json(output / LOCK, lock)
            partial.finish()
        _log.info("%s: %s, verified", path, _size(lock["size"]))
        return lock
    raise DownloadError(f"{source}: {'; '.join(problems)}; fetched twice, nothing of it is kept")


def _fill(partial: PartialFile, remote: MirroredFile, source: Source) -> None:
    size = "size unknown" if source.size is None else _size(source.size)
    _log.info(
        "%s: fetching %s (%s), of which %s are here",
        source,
        source.path.name,
        size,
        _size(partial.bytes_held),
    )
    try:
        partial.fill(remote)
    except DownloadError as error:
        kept = f"; {_size(held)} are kept" if (held := partial.bytes_held) else ""
        if not held:
            partial.discard()
        raise DownloadError(f"{source}: {source.path.name}: {error}{kept}") from error


def _verified(
    source: Source,
    wanted: Mapping[str, Any],
    path: Path,
    url: str | None,
    validator: Validator,
    facts: Callable[[Path], dict[str, Any]],
) -> dict[str, Any]:
    """Return the lock of the file at `path`.

    Raises:
        _DamagedError: it is not what `source` says.
    """
    size = path.stat().st_size
    if source.size not in (None, size):
        raise _DamagedError(f"{size} bytes; expected {source.size}")
    digests = file_digests(path, sorted({*ALGORITHMS, *source.digests}))
    for name, digest in source.digests.items():
        if digests[name] != digest:
            raise _DamagedError(f"{name} {digests[name]}; expected {digest}")
    return make_lock(
        wanted,
        file=source.path.name,
        url=url,
        validator=validator,
        size=size,
        digests=digests,
        verified_by=source.verified_by,
        **facts(path),
    )


def _list_facts(path: Path) -> dict[str, Any]:
    try:
        with gzip.open(path) as file:
            ids = sum(1 for _ in file)
    except (EOFError, OSError, zlib.error) as error:
        raise _DamagedError(str(error)) from error
    if abs(ids - VALIDATION_LIST_IDS) > _TOLERANCE * VALIDATION_LIST_IDS:
        _log.warning("%s: %d ids; expected about %d", path.name, ids, VALIDATION_LIST_IDS)
    return {"ids": ids}


def _identity(source: Source) -> dict[str, Any]:
    return {
        "name": source.name,
        "release": source.release,
        "file": source.path.name,
        "size": source.size,
        "digests": dict(source.digests),
    }


def _check_room(output: Path, size: int, name: str) -> None:
    free = shutil.disk_usage(output).free
    if size > free:
        raise UserError(f"{output}: {_size(free)} free; expected {_size(size)} for {name}")


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Make the directory, and keep a second download out of it as long as the block runs."""
    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{output}: another process downloads to it; expected to be the only one"
            ) from error
        except OSError:  # some cluster file systems have no locks
            _log.debug("%s: cannot be locked", output)
        yield


def _need() -> str:
    return "room for the whole file"


def _parse_digest(text: str | None) -> dict[str, str]:
    if text is None:
        return {}
    algorithm, _, digest = text.lower().partition(":")
    digits = DIGEST_DIGITS.get(algorithm)
    if digits is None or not re.fullmatch(rf"[0-9a-f]{{{digits}}}", digest):
        raise UserError(
            f"digest {text!r}: expected {', '.join(DIGEST_DIGITS)}, ':' and hexadecimal digits"
        )
    return {algorithm: digest}


def _parse_part(
    limit: str | None, sample: float | None, given: Mapping[str, str]
) -> Limit | float | None:
    if limit is not None and sample is not None:
        raise UserError(f"limit {limit!r} and sample {sample}: expected one of the two")
    if sample is not None and not 0 < sample < 1:
        raise UserError(f"sample {sample}: expected a number above 0 and below 1")
    if limit is not None and given:
        raise UserError(f"limit {limit!r} and a digest of the whole file: expected one of the two")
    return sample if limit is None else parse_limit(limit)


def _size(number: int) -> str:
    return tqdm.format_sizeof(number, "B")
