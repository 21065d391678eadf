"""One request for a part of a file: its headers, and the meaning of the answer or the failure."""

import re
import ssl
from dataclasses import astuple, dataclass
from http import HTTPStatus
from http.client import IncompleteRead
from importlib.metadata import version
from typing import Final
from urllib.parse import urljoin

import requests
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

_REDIRECTS: Final = 5
_MISSING: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
# Client errors that a later request may not meet; all others are permanent.
_PASSING: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)


@dataclass(frozen=True, kw_only=True)
class Validator:
    """The facts that tell two versions of a URL's content apart; None if the server gives none."""

    size: int | None = None
    etag: str | None = None
    last_modified: str | None = None

    def contradicts(self, other: "Validator") -> bool:
        """Return whether the two differ in a fact that both have."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return any(None not in (mine, its) and mine != its for mine, its in pairs)

    @property
    def condition(self) -> str | None:
        """Value of an If-Range header, which may not be a weak ETag (`W/`)."""
        is_strong = self.etag is not None and not self.etag.startswith("W/")
        return self.etag if is_strong else self.last_modified


@dataclass(eq=False)
class Refusal(Exception):  # noqa: N818 (what a server does, not an error of this program)
    """A server does not deliver; the message goes behind its URL.

    Attributes:
        reason: message.
        is_final: whether asking again is useless.
        is_missing: whether the server has no such file.
        retry_after: seconds to wait at the server's wish.
    """

    reason: str
    is_final: bool = False
    is_missing: bool = False
    retry_after: float = 0.0


class Session(requests.Session):
    """Follows redirects, but not out of HTTPS."""

    def __init__(self) -> None:
        super().__init__()
        self.max_redirects = _REDIRECTS
        self.headers["User-Agent"] = f"esm1b/{version('esm1b')}"

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return the address that an answer redirects to, or raise `Refusal`."""
        target = super().get_redirect_target(resp)
        source = str(resp.url)
        allowed = ("https:",) if source.startswith("https:") else ("https:", "http:")
        if target is not None and not urljoin(source, target).startswith(allowed):
            raise Refusal(f"redirected to {target}; expected HTTPS", is_final=True)
        return target


def range_headers(position: int, stop: int | None, validator: Validator) -> dict[str, str]:
    """Return the headers of a request for the bytes from `position` to `stop`, as they are."""
    headers = {"Accept-Encoding": "identity"}
    if position or stop is not None:
        headers["Range"] = f"bytes={position}-{'' if stop is None else stop - 1}"
    if position and validator.condition:
        headers["If-Range"] = validator.condition
    return headers


def parse_answer(response: requests.Response, position: int) -> tuple[int, Validator]:
    """Return the place in the file where the body begins, and the validator.

    Raises:
        Refusal: the body is not a part of the file that contains the byte at `position`.
    """
    status = response.status_code
    if status == HTTPStatus.OK:
        offset, size = 0, response.headers.get("Content-Length", "")
    elif status == HTTPStatus.PARTIAL_CONTENT:
        text = response.headers.get("Content-Range", "")
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text, re.ASCII | re.IGNORECASE)
        if found is None or int(found[1]) != position:
            expected = f"expected from byte {position} on"
            raise Refusal(f"Content-Range {text!r}; {expected}", is_final=True)
        offset, size = position, found[2]
    else:
        try:
            retry_after = Retry().get_retry_after(response.raw) or 0.0
        except HTTPError:  # neither seconds nor a date
            retry_after = 0.0
        raise Refusal(
            f"{status} {response.reason or ''}".rstrip(),
            is_final=status // 100 == 4 and status not in _PASSING,
            is_missing=status in _MISSING,
            retry_after=retry_after,
        )
    return offset, Validator(
        size=int(size) if size.isascii() and size.isdigit() else None,
        etag=response.headers.get("ETag"),
        last_modified=response.headers.get("Last-Modified"),
    )


def broken_connection(error: Exception) -> Refusal:
    """Return the refusal that says in a few words why a connection failed."""
    cause: BaseException | str | None = error
    while isinstance(cause, BaseException):  # urllib3 and requests wrap it several times
        first = cause
        cause = getattr(first, "reason", None) or first.__cause__ or first.__context__
    text = " ".join(str(getattr(first, "strerror", None) or first).split()) or type(first).__name__
    if isinstance(first, IncompleteRead):
        text = "the connection broke"
    elif isinstance(error, requests.exceptions.ProxyError):
        text = f"no connection through the proxy: {text}"
    is_final = isinstance(error, requests.exceptions.TooManyRedirects)
    is_final |= isinstance(first, ssl.SSLCertVerificationError)
    return Refusal(text, is_final=is_final)
