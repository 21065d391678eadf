"""What a server can answer to a request for a part of a file, and how a connection can fail."""

import ssl
from dataclasses import astuple, dataclass
from http.client import IncompleteRead
from typing import Final
from urllib.parse import urljoin

import requests

from esm1b.errors import one_line
from esm1b.versions import __version__

_REDIRECTS: Final = 5


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
    """A server does not deliver, for a reason that messages give after its URL.

    `is_final` means that asking again is useless, `is_missing` that the server has no such file;
    `retry_after` is the number of seconds that it asks to wait.
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
        self.headers["User-Agent"] = f"esm1b/{__version__}"

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return the address that an answer redirects to, or raise `Refusal`."""
        target = super().get_redirect_target(resp)
        source = str(resp.url)
        allowed = ("https:",) if source.startswith("https:") else ("https:", "http:")
        if target is not None and not urljoin(source, target).startswith(allowed):
            raise Refusal(f"redirected to {target}; expected HTTPS", is_final=True)
        return target


def broken_connection(error: Exception) -> Refusal:
    """Return the refusal that says in a few words why a connection failed."""
    cause: BaseException | str | None = error
    while isinstance(cause, BaseException):  # urllib3 and requests wrap it several times
        first = cause
        cause = getattr(first, "reason", None) or first.__cause__ or first.__context__
    text = one_line(first)
    if isinstance(first, IncompleteRead):
        text = "the connection broke"
    elif isinstance(error, requests.exceptions.ProxyError):
        text = f"no connection through the proxy: {text}"
    is_final = isinstance(error, requests.exceptions.TooManyRedirects)
    is_final |= isinstance(first, ssl.SSLCertVerificationError)
    return Refusal(text, is_final=is_final)
