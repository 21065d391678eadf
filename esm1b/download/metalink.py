"""Reading RELEASE.metalink: the name of a release, and the size and digests of its files."""

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser, fromstring

from esm1b.download.answer import Refusal

# Hexadecimal digits of the digests that are checked.
DIGEST_DIGITS: Final = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}


@dataclass(eq=False)
class MetalinkError(Refusal):
    """The text is not a metalink, or without the necessary facts; the reason says which."""

    is_final: bool = True


@dataclass(frozen=True, kw_only=True)
class ListedFile:
    """The size of a file, None if missing, and its digests in lower case by `hashlib` algorithm."""

    size: int | None
    digests: Mapping[str, str]


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
