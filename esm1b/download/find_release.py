"""Finding a release on the mirrors: which file it is, how large, and with which digest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from esm1b.download.metalink import ListedFile, MetalinkError, parse_metalink
from esm1b.download.mirrors import FileChangedError, MirroredFile, NotOfferedError, Patience
from esm1b.download.release import (
    CURRENT,
    CURRENT_FILE,
    METALINK,
    VALIDATION_LIST,
    VALIDATION_LIST_RELEASE,
    RemotePath,
    previous_file,
)
from esm1b.errors import DownloadError, UserError

_LONGEST_METALINK: Final = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file to fetch, and what it must be.

    Attributes:
        name: of the data, for people.
        release: its name, never `current`.
        path: on every mirror.
        urls: the file on each mirror.
        size: bytes, or None where nobody says.
        digests: by algorithm; none of a file that was published without.
        verified_by: where the digests come from, in words, or None.
    """

    name: str
    release: str
    path: RemotePath
    urls: Sequence[str]
    size: int | None
    digests: Mapping[str, str]
    verified_by: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.release}"


def find_release(
    release: str, mirrors: Sequence[str], given: Mapping[str, str], patience: Patience
) -> Source:
    """Return the file of a release of UniRef50.

    The current release is FASTA, also where it is asked for by its number; an earlier one is an
    archive.

    Args:
        release: `current` or a number.
        mirrors: their roots, in the order of preference.
        given: digests that the user gives, by algorithm.
        patience: with the mirrors.

    Raises:
        UserError: no mirror has the release, or its digest is not the one that the user gives.
        DownloadError: the mirrors cannot be asked, or do not say what is needed.
    """
    path = CURRENT_FILE
    version: str | None = None
    try:
        version, listed = _look_up(path, mirrors, patience)
    except _NoMetalinkError as error:
        if release == CURRENT:
            raise DownloadError(str(error)) from error
    if release not in (CURRENT, version):
        version, path = release, previous_file(release)
        listed = _look_up_previous(path, release, mirrors, given, patience)
    assert version is not None
    for algorithm, digest in given.items():
        if listed.digests.get(algorithm, digest) != digest:
            raise UserError(
                f"digest {algorithm}:{digest}: {METALINK} of {version} says "
                f"{listed.digests[algorithm]} of {path.name}; expected the same"
            )
    return Source(
        name="UniRef50",
        release=version,
        path=path,
        urls=path.urls(mirrors),
        size=listed.size,
        digests={**listed.digests, **given},
        verified_by=" and ".join(
            [METALINK] * bool(listed.digests) + ["a given digest"] * bool(given)
        ),
    )


def validation_list(mirrors: Sequence[str], given: Mapping[str, str]) -> Source:
    """Return the list of the clusters that ESM-1b held out, published without a digest."""
    return Source(
        name="ESM-1b validation list",
        release=VALIDATION_LIST_RELEASE,
        path=VALIDATION_LIST,
        urls=VALIDATION_LIST.urls(mirrors),
        size=None,
        digests=given,
        verified_by="a given digest" if given else None,
    )


class _NoMetalinkError(Exception):
    """The mirrors answer, but not with a metalink that says what is needed."""

    def __init__(self, message: str, *, is_missing: bool) -> None:
        super().__init__(message)
        self.is_missing = is_missing


def _look_up_previous(
    path: RemotePath,
    release: str,
    mirrors: Sequence[str],
    given: Mapping[str, str],
    patience: Patience,
) -> ListedFile:
    try:
        return _look_up(path, mirrors, patience, release)[1]
    except _NoMetalinkError as error:
        if given:
            return ListedFile(size=None, digests={})
        if error.is_missing:
            raise UserError(
                f"release {release!r}: no mirror has it ({error}); expected a published release, "
                "or its digest where it has been published without one"
            ) from error
        raise DownloadError(str(error)) from error


def _look_up(
    path: RemotePath, mirrors: Sequence[str], patience: Patience, release: str | None = None
) -> tuple[str, ListedFile]:
    """Return the name of the release and what its metalink says of a file.

    Raises:
        _NoMetalinkError: no mirror has one that says it.
        DownloadError: no mirror answers.
    """
    urls = path.beside(METALINK).urls(mirrors)
    problems: list[str] = []
    while urls:
        remote = MirroredFile(urls, patience=patience)
        try:
            return _listed(_whole(remote), path.name, release)
        except NotOfferedError as error:
            message = "; ".join([*problems, str(error)])
            raise _NoMetalinkError(message, is_missing=not problems) from error
        except MetalinkError as error:
            problems.append(f"{remote.url}: {error}")
            urls = [url for url in urls if url != remote.url]
    raise _NoMetalinkError("; ".join(problems), is_missing=False)


def _listed(data: bytes, name: str, release: str | None) -> tuple[str, ListedFile]:
    metalink = parse_metalink(data)
    version = metalink.version or release
    if version is None:
        raise MetalinkError("it does not name its release")
    if release not in (None, version):
        raise MetalinkError(f"it is of release {version}; expected {release}")
    if name not in metalink.files:
        raise MetalinkError(f"it does not list {name}")
    if not metalink.files[name].digests:
        raise MetalinkError(f"it gives no digest of {name}")
    return version, metalink.files[name]


def _whole(remote: MirroredFile) -> bytes:
    while True:
        data = b""
        try:
            for piece in remote.read():
                data += piece
                if len(data) > _LONGEST_METALINK:
                    raise MetalinkError(f"longer than {_LONGEST_METALINK} bytes")
            return data
        except FileChangedError:  # the mirrors tell after how many times that is enough
            remote.forget()
