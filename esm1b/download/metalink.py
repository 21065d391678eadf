"""Reading RELEASE.metalink: the name of a release, and the size and digests of its files."""

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

DIGEST_DIGITS: Final = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
"""The digests that are checked, and how many hexadecimal digits they have."""


class MetalinkError(Exception):
    """The text is not a metalink; the message says why."""


@dataclass(frozen=True, kw_only=True)
class ListedFile:
    """What a metalink says of a file.

    Attributes:
        size: bytes, or None where it does not say.
        digests: hexadecimal, in lower case, by the name of the algorithm as `hashlib` has it.
    """

    size: int | None
    digests: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Metalink:
    """A release.

    Attributes:
        version: the name of the release, or None where it does not say.
        files: by name.
    """

    version: str | None
    files: Mapping[str, ListedFile]


def parse_metalink(data: bytes) -> Metalink:
    """Return the content of a metalink, version 3 or 4.

    A document type, and with it any entity, is refused.

    Raises:
        MetalinkError: it is not XML, not a metalink, or says of a file what cannot be.
    """
    handlers = _Handlers()
    parser = expat.ParserCreate(namespace_separator="}")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = handlers.refuse_doctype
    parser.StartElementHandler = handlers.start
    parser.EndElementHandler = handlers.end
    parser.CharacterDataHandler = handlers.text
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise MetalinkError(f"not XML: {error}") from error
    return Metalink(version=handlers.version, files=handlers.files)


@dataclass
class _Handlers:
    """Gathers what the parser meets; `path` is the names of the open elements."""

    version: str | None = None
    files: dict[str, ListedFile] = field(default_factory=dict)
    path: list[str] = field(default_factory=list)
    content: str = ""
    name: str = ""
    algorithm: str = ""
    size: int | None = None
    digests: dict[str, str] = field(default_factory=dict)

    def refuse_doctype(self, *_: object) -> None:
        raise MetalinkError("it declares a document type, which no metalink needs")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        element = tag.rpartition("}")[2]
        if not self.path and element != "metalink":
            raise MetalinkError(f"its root is <{element}>; expected <metalink>")
        self.path.append(element)
        self.content = ""
        if element == "file":
            self.name = attributes.get("name", "")
            self.size, self.digests = None, {}
        elif element == "hash":
            # Metalink 3, which UniProt writes, has sha256, Metalink 4 (RFC 5854) has sha-256
            self.algorithm = attributes.get("type", "").lower().replace("sha-", "sha")

    def text(self, text: str) -> None:
        self.content += text

    def end(self, _: str) -> None:
        match self.path:
            case ["metalink", "version"]:
                self.version = self.content.strip() or None
            case [*_, "file", "size"]:
                self.size = self._size(self.content.strip())
            case [*_, "file", "hash"] | [*_, "file", "verification", "hash"]:
                self._add_digest(self.content.strip().lower())
            case [*_, "file"]:
                self._add_file()
        self.path.pop()
        self.content = ""

    def _size(self, text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 19):  # fits 63 bits
            raise MetalinkError(f"size {text!r} of {self.name!r}; expected a number of bytes")
        return int(text)

    def _add_digest(self, digest: str) -> None:
        digits = DIGEST_DIGITS.get(self.algorithm)
        if digits is None:  # one that is not known here is no reason to refuse the others
            return
        if len(digest) != digits or not set(digest) <= set(string.hexdigits):
            raise MetalinkError(
                f"{self.algorithm} {digest!r} of {self.name!r}; expected {digits} hex digits"
            )
        self.digests[self.algorithm] = digest

    def _add_file(self) -> None:
        if not self.name:
            raise MetalinkError("a <file> without a name")
        listed = ListedFile(size=self.size, digests=self.digests)
        if self.files.setdefault(self.name, listed) != listed:
            raise MetalinkError(f"it lists {self.name!r} twice, and differently")
