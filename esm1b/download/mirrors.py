"""One file that several servers offer, read as one stream whatever breaks on the way."""

import logging
import math
import random
import re
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from http import HTTPStatus
from http.client import IncompleteRead
from typing import Final
from urllib.parse import urljoin

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util import Retry

from esm1b.errors import DownloadError, one_line
from esm1b.versions import __version__

_log = logging.getLogger(__name__)

_PIECE_BYTES: Final = 1 << 18
_SLOWEST: Final = 1000.0  # bytes per second; what is slower is as good as stuck
_REDIRECTS: Final = 5
_CHANGES: Final = 3  # after so many, a file is not changed but different at every request
_MISSING: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
# Client errors that a later request may not meet; all others will not go away.
_PASSING: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)


class FileChangedError(Exception):
    """A server's file is not known to be the one that the first bytes came from."""


class NotOfferedError(DownloadError):
    """Every server answered that it has no such file."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """When a server counts as stuck, and how often to ask again.

    Attributes:
        connection_seconds: to wait for a connection.
        silence_seconds: without data, or with less than 1 kB/s of it, until one is dropped.
        rounds: over all servers without one more byte, after which nothing will come.
        first_wait: seconds after the first such round; doubled after each further one.
        longest_wait: seconds; also of what a server asks for with Retry-After.
    """

    connection_seconds: float = 15.0
    silence_seconds: float = 60.0
    rounds: int = 7  # with the waits below, up to two minutes
    first_wait: float = 2.0
    longest_wait: float = 120.0

    def wait(self, rounds: int) -> float:
        """Return the seconds to wait after `rounds` rounds in vain, scattered over their half."""
        # so that many clients that one failure has stopped do not come back at one moment
        seconds = min(math.ldexp(self.first_wait, rounds - 1), self.longest_wait)
        return seconds * random.uniform(0.5, 1)


@dataclass(frozen=True, kw_only=True)
class Validator:
    """What tells the content of a URL from another one; None where the server does not say.

    Attributes:
        size: bytes of the whole file.
        etag: as the server writes it, in quotes.
        last_modified: as the server writes it.
    """

    size: int | None = None
    etag: str | None = None
    last_modified: str | None = None

    def contradicts(self, other: "Validator") -> bool:
        """Return whether the two say different things of any one point."""
        return any(
            None not in (mine, its) and mine != its
            for mine, its in zip(astuple(self), astuple(other), strict=True)
        )

    @property
    def condition(self) -> str | None:
        """What to send as If-Range; a weak ETag (`W/`) is not allowed there."""
        if self.etag is not None and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified


class MirroredFile:
    """A file under several URLs, of which the first one that works is read.

    Proxies come from the environment (`https_proxy`, `no_proxy`).

    Attributes:
        size: bytes, or None until a server has said it.
        url: where the last bytes came from.
        validators: of each URL that bytes came from.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        patience: Patience,
        size: int | None = None,
        has_digest: bool = False,
        validators: Mapping[str, Validator] | None = None,
    ) -> None:
        """Prepare to read; nothing is asked yet.

        Args:
            urls: in the order of preference.
            patience: with the servers.
            size: bytes of the file; a server whose file has another size is not read.
            has_digest: whether the reader will find out by a digest if bytes of different servers
                do not belong together; without one they are not put together.
            validators: of the URLs that the bytes before the start came from.
        """
        self.size = size
        self._expected_size = size
        self.url: str | None = None
        self.validators = dict(validators or {})
        self._urls = list(urls)
        self._patience = patience
        self._has_digest = has_digest
        self._session = _Session()
        self._reasons: dict[str, _Refusal] = {}
        self._changes = 0

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from `start` on, up to `stop`, in pieces, in order and without a gap.

        After a break the next request asks for what is missing: of the same server as long as it
        delivers anything, else of the next one, and after a round of all of them again.

        Raises:
            FileChangedError: the bytes before the break are of another file; read from 0 again.
            NotOfferedError: no server has the file.
            DownloadError: no server delivers it.
        """
        position = start
        rounds = 0
        while True:
            for url in self._usable():
                refusal = None
                while refusal is None or (refusal.bytes_read and not refusal.is_final):
                    before = position
                    try:
                        for piece in self._answer(url, position, stop):
                            position += len(piece)
                            rounds = 0
                            yield piece
                        return
                    except _Refusal as error:
                        refusal = error
                    refusal.bytes_read = position - before
                    self._reasons[url] = refusal
                    if refusal.bytes_read and not refusal.is_final:
                        _log.debug("%s: %s at byte %d; asked again", url, refusal, position)
                        time.sleep(self._patience.wait(1))
                _log.warning("%s: %s", url, refusal)
            rounds += 1
            self._wait(rounds)

    def forget(self) -> None:
        """Drop what is known of the bytes so far, which are of no use any more."""
        self.validators.clear()
        self.size = self._expected_size

    def others_first(self) -> list[str]:
        """Return all URLs, those that bytes came from last."""
        return sorted(self._urls, key=lambda url: url in self.validators)

    def _usable(self) -> list[str]:
        return [
            url for url in self._urls if url not in self._reasons or not self._reasons[url].is_final
        ]

    def _wait(self, rounds: int) -> None:
        """Wait for the next round, or raise if there is to be none."""
        usable = self._usable()
        if not usable or rounds >= self._patience.rounds:
            reasons = "; ".join(f"{url}: {reason}" for url, reason in self._reasons.items())
            if all(reason.is_missing for reason in self._reasons.values()):
                raise NotOfferedError(reasons)
            raise DownloadError(reasons)
        asked_for = max(self._reasons[url].retry_after for url in usable)
        seconds = max(self._patience.wait(rounds), min(asked_for, self._patience.longest_wait))
        _log.warning("no server delivers; asked again in %.0f s", seconds)
        time.sleep(seconds)

    def _answer(self, url: str, position: int, stop: int | None) -> Iterator[bytes]:
        """Yield what one request brings of the bytes from `position` on."""
        headers = {"Accept-Encoding": "identity"}
        if position or stop is not None:
            headers["Range"] = f"bytes={position}-" + ("" if stop is None else str(stop - 1))
            condition = self.validators.get(url, Validator()).condition
            if position and condition:
                headers["If-Range"] = condition
        timeouts = (self._patience.connection_seconds, self._patience.silence_seconds)
        try:
            with self._session.get(url, headers=headers, stream=True, timeout=timeouts) as response:
                offset = self._offset(url, response, position)
                yield from self._body(response, offset, position, stop)
        except (requests.RequestException, HTTPError) as error:
            reason, is_final = _reason(error)
            raise _Refusal(reason, is_final=is_final) from error

    def _offset(self, url: str, response: requests.Response, position: int) -> int:
        """Return where in the file the body begins, once all that the head says is as it must."""
        if position and response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise self._changed(url)
        if response.status_code not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise _status_refusal(response)
        offset, size = _place(response, position)
        if self._expected_size is not None and size not in (None, self._expected_size):
            raise _Refusal(
                f"its file has {size} bytes; expected {self._expected_size}", is_final=True
            )
        found = Validator(
            size=size,
            etag=response.headers.get("ETag"),
            last_modified=response.headers.get("Last-Modified"),
        )
        if position and not self._continues(url, found):
            raise self._changed(url)
        self.size = self.size if size is None else size
        self.url = url
        self.validators.setdefault(url, found)
        return offset

    def _continues(self, url: str, found: Validator) -> bool:
        """Return whether the bytes so far and those of this answer belong to one file."""
        known = self.validators.get(url)
        if known is None:
            return self._has_digest
        return not known.contradicts(found) and (self._has_digest or known.condition is not None)

    def _changed(self, url: str) -> Exception:
        self._changes += 1
        if self._changes > _CHANGES:
            return _Refusal("its file is another one at every request", is_final=True)
        return FileChangedError(f"{url}: not the file whose beginning is here")

    def _body(
        self, response: requests.Response, offset: int, position: int, stop: int | None
    ) -> Iterator[bytes]:
        """Yield the body, which begins at `offset`, from `position` to `stop`."""
        end = self.size if stop is None else min(stop, self.size or stop)
        clock = time.monotonic()
        counted = 0
        while end is None or offset < end:
            piece = response.raw.read1(_PIECE_BYTES, decode_content=False)
            if not piece:
                break
            begin = max(0, position - offset)  # more than 0 where a server ignores the range
            offset += len(piece)
            if self.size is not None and offset > self.size:
                raise _Refusal(f"it sends more than {self.size} bytes", is_final=True)
            if wanted := piece[begin : None if stop is None else stop - offset + len(piece)]:
                position += len(wanted)
                yield wanted
            counted += len(piece)
            if (seconds := time.monotonic() - clock) > self._patience.silence_seconds:
                if counted < _SLOWEST * seconds:
                    raise _Refusal(f"only {counted} bytes in {seconds:.0f} s")
                clock, counted = time.monotonic(), 0
        if end is not None and offset < end:
            raise _Refusal(f"it sends {offset} bytes of {end}")


class _Refusal(Exception):  # noqa: N818 (what a server does, not an error of this program)
    """What one server did instead of delivering; the message goes behind its URL."""

    def __init__(
        self,
        reason: str,
        *,
        is_final: bool = False,
        is_missing: bool = False,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(reason)
        self.is_final = is_final
        self.is_missing = is_missing
        self.retry_after = retry_after
        self.bytes_read = 0


class _Session(requests.Session):
    """Follows redirects, but not out of HTTPS."""

    def __init__(self) -> None:
        super().__init__()
        self.max_redirects = _REDIRECTS
        self.headers["User-Agent"] = f"esm1b/{__version__}"

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is not None:
            source = str(resp.url)
            allowed = ("https:",) if source.startswith("https:") else ("https:", "http:")
            if not urljoin(source, target).startswith(allowed):
                raise _Refusal(f"redirected to {target}; expected HTTPS", is_final=True)
        return target


def _status_refusal(response: requests.Response) -> _Refusal:
    status = response.status_code
    try:
        retry_after = Retry().get_retry_after(response.raw) or 0.0
    except HTTPError:  # neither seconds nor a date
        retry_after = 0.0
    return _Refusal(
        f"{status} {response.reason or ''}".rstrip(),
        is_final=status // 100 == 4 and status not in _PASSING,
        is_missing=status in _MISSING,
        retry_after=retry_after,
    )


def _place(response: requests.Response, position: int) -> tuple[int, int | None]:
    """Return where in the file the body begins, and the size of the file if it is told."""
    if response.status_code == HTTPStatus.OK:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isascii() and length.isdigit() else None
    text = response.headers.get("Content-Range", "")
    told = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", text, re.ASCII | re.IGNORECASE)
    if told is None or int(told[1]) != position:
        raise _Refusal(f"Content-Range {text!r}; expected from byte {position} on", is_final=True)
    return position, None if told[3] == "*" else int(told[3])


def _reason(error: Exception) -> tuple[str, bool]:
    """Return in a few words why a connection failed, and whether it always will."""
    cause = _cause(error)
    said = one_line(cause)
    match error:
        case requests.exceptions.TooManyRedirects():
            return f"more than {_REDIRECTS} redirects", True
        case requests.exceptions.SSLError():
            is_final = isinstance(cause, ssl.SSLCertVerificationError)
            return f"no secure connection: {said}", is_final
        case requests.exceptions.ProxyError():
            return f"no connection through the proxy: {said}", False
        case requests.exceptions.ConnectTimeout():
            return "no answer to the request for a connection", False
        case requests.exceptions.ReadTimeout() | ReadTimeoutError():
            return "the connection stalled", False
    return ("the connection broke" if isinstance(cause, IncompleteRead) else said), False


def _cause(error: BaseException) -> BaseException:
    """Return what urllib3 and requests have wrapped several times."""
    while True:
        inner = getattr(error, "reason", None) or error.__cause__ or error.__context__
        if not isinstance(inner, BaseException):
            return error
        error = inner
