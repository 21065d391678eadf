"""Finding a release on the mirrors: its file, size and digests, as RELEASE.metalink lists them."""

import logging
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser, fromstring

from esm1b.download.answer import Refusal
from esm1b.download.mirrors import MirroredFile, MissingFileError, RefusedError, Result
from esm1b.download.release import (
    CURRENT,
    CURRENT_FILE,
    METALINK,
    VALIDATION_LIST,
    VALIDATION_LIST_RELEASE,
    previous_file,
)
from esm1b.errors import DownloadError, UserError

_log = logging.getLogger(__name__)

# Hexadecimal digits of the digests that are checked.
DIGEST_DIGITS: Final = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
_LONGEST_METALINK: Final = 4 << 20


class DamagedFileError(Exception):
    """A file differs from its published size or digests; the message says how."""


@dataclass(eq=False)
class MetalinkError(Refusal):
    """The text is not a metalink, or without the necessary facts; the reason says which."""

    is_final: bool = True


@dataclass(frozen=True, kw_only=True)
class ListedFile:
    """The size of a file, None if missing, and its digests in lower case by `hashlib` algorithm."""

    size: int | None = None
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file to fetch.

    `release` is never `current`, `file` is its name on every mirror, `urls` has the preferred
    ones first, and `size` is in bytes. Digests, by algorithm, are from RELEASE.metalink
    (`published`) and from the user (`given`).
    """

    name: str
    release: str
    file: str
    urls: Sequence[str]
    size: int | None = None
    published: Mapping[str, str]
    given: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.name} {self.release}"

    @property
    def digests(self) -> dict[str, str]:
        """Published and given digests by algorithm."""
        return {**self.published, **self.given}

    @property
    def verified_by(self) -> str | None:
        """Origin of the digests in words, or None."""
        origins = [METALINK] * bool(self.published) + ["a given digest"] * bool(self.given)
        return " and ".join(origins) or None

    def facts(self) -> dict[str, Any]:
        """Return the published facts about the file as JSON."""
        return {"file": self.file, "size": self.size, "digests": self.digests}

    def check(self, digests: Mapping[str, str]) -> None:
        """Raise `DamagedFileError` if `digests` are not those of the file."""
        for name, expected in self.digests.items():
            if digests[name] != expected:
                raise DamagedFileError(f"{name} {digests[name]}; expected {expected}")

    def fetch(self, attempt: Callable[[MirroredFile], Result], *, has_digest: bool) -> Result:
        """Return the result of `attempt`, which reads the file and may find it damaged.

        Then it is tried a second time, from the other mirrors first.

        Raises:
            DownloadError: the mirrors do not deliver the file, or it is damaged both times.
        """
        name, urls = f"{self}: {self.file}", self.urls
        problems = []
        for _ in range(2):
            remote = MirroredFile(name, urls, size=self.size, has_digest=has_digest)
            try:
                return remote.from_start(attempt)
            except DamagedFileError as error:
                problems.append(f"{' and '.join(remote.validators)}: {error}")
                _log.warning("%s; deleted", problems[-1])
                urls = sorted(urls, key=remote.validators.__contains__)  # the others first
        raise DownloadError(f"{self}: {'; '.join(problems)}; failed verification twice, deleted")


def find_release(release: str, mirrors: Sequence[str], given: Mapping[str, str]) -> Source:
    """Return the file of a release of UniRef50.

    The current release is FASTA, also if it is named by its number; an earlier one is an archive.
    `given` has the user's digests, by algorithm.

    Raises:
        UserError: no mirror has the release, or its digest differs from the user's.
        DownloadError: the mirrors do not answer, or without the necessary facts.
    """
    path = CURRENT_FILE
    version, listed = "", ListedFile()
    try:
        version, listed = _look_up(path, release, mirrors)
    except RefusedError:
        if release == CURRENT:
            raise
    if release not in (CURRENT, version):
        path = previous_file(release)
        version, listed = release, ListedFile()
        try:
            listed = _look_up(path, release, mirrors)[1]
        except RefusedError as error:
            if not given and isinstance(error, MissingFileError):
                raise UserError(
                    f"release {release!r}: no mirror has it ({error}); expected a published "
                    "release, or its digest if it was published without one"
                ) from error
            if not given:
                raise
    for algorithm, digest in given.items():
        if listed.digests.get(algorithm, digest) != digest:
            raise UserError(
                f"digest {algorithm}:{digest}: {METALINK} of {version} says "
                f"{listed.digests[algorithm]} of {path.name}; expected the same"
            )
    return Source(
        name="UniRef50",
        release=version,
        file=path.name,
        urls=_urls(path, mirrors),
        size=listed.size,
        published=listed.digests,
        given=given,
    )


def find_list(mirrors: Sequence[str], given: Mapping[str, str]) -> Source:
    """Return the list of the clusters that ESM-1b held out, published without a digest."""
    return Source(
        name="ESM-1b validation list",
        release=VALIDATION_LIST_RELEASE,
        file=VALIDATION_LIST.name,
        urls=_urls(VALIDATION_LIST, mirrors),
        published={},
        given=given,
    )


def _urls(path: PurePosixPath, mirrors: Sequence[str]) -> list[str]:
    return [f"{mirror}/{path}" for mirror in mirrors]


def _look_up(path: PurePosixPath, release: str, mirrors: Sequence[str]) -> tuple[str, ListedFile]:
    """Return the name of the release and the facts about a file from the metalink beside it.

    Raises:
        RefusedError: no mirror has a metalink with these facts.
        DownloadError: no mirror answers.
    """
    expected = None if path == CURRENT_FILE else release

    def listed(remote: MirroredFile) -> tuple[str, ListedFile]:
        data = b""
        for piece in remote.read():
            data += piece
            if len(data) > _LONGEST_METALINK:
                raise MetalinkError(f"longer than {_LONGEST_METALINK} bytes")
        version, files = parse_metalink(data)
        version = version or expected
        if version is None:
            raise MetalinkError("it does not name its release")
        if expected not in (None, version):
            raise MetalinkError(f"it is of release {version}; expected {expected}")
        if path.name not in files:
            raise MetalinkError(f"it does not list {path.name}")
        if not files[path.name].digests:
            raise MetalinkError(f"it gives no digest of {path.name}")
        return version, files[path.name]

    urls = _urls(path.with_name(METALINK), mirrors)
    return MirroredFile(f"UniRef50 {release}", urls).from_start(listed)


def parse_metalink(data: bytes) -> tuple[str | None, dict[str, ListedFile]]:
    """Return the name of the release, None if missing, and the facts by file name.

    Versions 3 and 4 are read. A document type, and with it any entity, is refused.

    Raises:
        MetalinkError: it is not XML, not a metalink, or has an impossible fact about a file.
    """
    try:
        root = fromstring(data, XMLParser(target=_Builder()))
    except ParseError as error:
        raise MetalinkError(f"not XML: {error}") from error
    if (tag := root.tag.rpartition("}")[2]) != "metalink":
        raise MetalinkError(f"its root is <{tag}>; expected <metalink>")
    files: dict[str, ListedFile] = {}
    for element in root.iterfind(".//{*}file"):
        name = element.get("name")
        if not name:
            raise MetalinkError("a <file> without a name")
        listed = ListedFile(size=_size(element, name), digests=_digests(element, name))
        if files.setdefault(name, listed) != listed:
            raise MetalinkError(f"it lists {name!r} twice, and differently")
    return root.findtext("{*}version", "").strip() or None, files


class _Builder(TreeBuilder):
    def doctype(self, *_: object) -> None:
        raise MetalinkError("it declares a document type, which no metalink needs")


def _size(element: Element, name: str) -> int | None:
    text = element.findtext("{*}size")
    if text is None:
        return None
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) < 19):  # fits 63 bits
        raise MetalinkError(f"size {text!r} of {name!r}; expected a number of bytes")
    return int(text)


def _digests(element: Element, name: str) -> dict[str, str]:
    digests = {}
    for found in element.iterfind(".//{*}hash"):
        # Metalink 3, which UniProt writes, has sha256, Metalink 4 (RFC 5854) has sha-256
        algorithm = found.get("type", "").lower().replace("sha-", "sha")
        digest = (found.text or "").strip().lower()
        digits = DIGEST_DIGITS.get(algorithm)
        if digits is None:  # an unknown algorithm is no reason to refuse the others
            continue
        if len(digest) != digits or not set(digest) <= set(string.hexdigits):
            raise MetalinkError(f"{algorithm} {digest!r} of {name!r}; expected {digits} hex digits")
        digests[algorithm] = digest
    return digests
