"""One file that several servers offer, read as one stream across interruptions."""

import logging
import math
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeVar

from requests import RequestException, Response
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from esm1b.download.answer import Refusal, Session, Validator, broken_connection
from esm1b.errors import DownloadError

_log = logging.getLogger(__name__)

Result = TypeVar("Result")

_PIECE_BYTES: Final = 1 << 18
_SLOWEST: Final = 1000.0  # bytes per second; anything slower counts as stuck
_CHANGES: Final = 3  # after more of them, the server is taken to vary the file by request
_MISSING: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
# Client errors that a later request may not meet; all others are permanent.
_PASSING: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)


class FileChangedError(Exception):
    """A server's file may not be the one that the first bytes came from."""


class RefusedError(DownloadError):
    """Every server refused the file for good."""


class MissingFileError(RefusedError):
    """Every server answered that it has no such file."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """The limits after which a server counts as stuck, and the waits between requests.

    Attributes:
        connection_seconds: longest wait for a connection.
        silence_seconds: longest time without data, or with less than 1 kB/s of it.
        rounds: most rounds over all servers without a new byte.
        first_wait: seconds after the first such round; doubled after each further one.
        longest_wait: most seconds, even if a server asks for more with Retry-After.
    """

    connection_seconds: float = 15.0
    silence_seconds: float = 60.0
    rounds: int = 7  # with the waits below, up to two minutes
    first_wait: float = 2.0
    longest_wait: float = 120.0

    def wait(self, rounds: int) -> float:
        """Return the seconds to wait after `rounds` fruitless rounds."""
        # random, so that many clients stopped by one failure do not come back at the same moment
        seconds = min(math.ldexp(self.first_wait, rounds - 1), self.longest_wait)
        return seconds * random.uniform(0.5, 1)


PATIENCE: Final = Patience()


class MirroredFile:
    """A file under several URLs, read from the first one that works.

    Proxies come from the environment (`https_proxy`, `no_proxy`). A server whose file has another
    `size`, if given, is not read. Bytes of different servers are combined only if a digest will
    show whether they belong together.

    Attributes:
        size: bytes, or None until a server has said it.
        url: source of the last bytes.
        validators: validator of each URL that bytes came from.
    """

    def __init__(
        self, name: str, urls: Sequence[str], *, size: int | None = None, has_digest: bool = False
    ) -> None:
        self.size = self._expected_size = size
        self.url: str | None = None
        self.validators: dict[str, Validator] = {}
        self._name = name
        self._urls = urls
        self._patience = PATIENCE
        self._has_digest = has_digest
        self._session = Session()
        self._refusals: dict[str, Refusal] = {}
        self._changes = 0

    @property
    def validator(self) -> Validator:
        """Validator of the URL that the last bytes came from."""
        return self.validators.get(self.url or "", Validator())

    def resume(self, url: str, validators: Mapping[str, Mapping[str, Any]]) -> None:
        """Continue from bytes of an earlier process, the last of which came from `url`."""
        self.validators = {key: Validator(**facts) for key, facts in validators.items()}
        self.url = url
        self.size = self.size or self.validator.size

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from `start` to `stop`, in pieces, in order and without a gap.

        After an interruption the next request asks for the missing bytes: the same server as long
        as it delivers anything, else the next one, and after a round of all of them again.

        Raises:
            FileChangedError: the bytes so far are of another file; read from 0 again.
            DownloadError: no server delivers it; `RefusedError` if none ever will.
        """
        position = start
        rounds = 0
        while True:
            urls = self._usable()
            while urls:
                url, before = urls[0], position
                try:
                    for piece in self._answer(url, position, stop):
                        position += len(piece)
                        rounds = 0
                        yield piece
                    return
                except Refusal as refusal:
                    self._refusals[url] = refusal
                    if position > before and not refusal.is_final:
                        _log.debug("%s: %s at byte %d; asking again", url, refusal, position)
                        time.sleep(self._patience.wait(1))
                    else:
                        _log.warning("%s: %s", url, refusal)
                        urls.pop(0)
            rounds += 1
            self._wait(rounds)

    def from_start(self, action: Callable[["MirroredFile"], Result]) -> Result:
        """Return the result of `action`, which reads the file; repeat it if the file changes.

        A server whose file makes it raise a final `Refusal` is asked no more.
        """
        while True:
            try:
                return action(self)
            except FileChangedError as error:
                _log.warning("%s; fetched again from its beginning", error)
            except Refusal as refusal:
                self._refusals[self.url or ""] = refusal
            self.validators.clear()
            self.size = self._expected_size

    def _usable(self) -> list[str]:
        refused = {url for url, refusal in self._refusals.items() if refusal.is_final}
        return [url for url in self._urls if url not in refused]

    def _wait(self, rounds: int) -> None:
        """Wait for the next round, or raise if it was the last."""
        usable = self._usable()
        if not usable or rounds >= self._patience.rounds:
            reasons = [f"{url}: {refusal}" for url, refusal in self._refusals.items()]
            message = f"{self._name}: {'; '.join(reasons)}"
            if all(refusal.is_missing for refusal in self._refusals.values()):
                raise MissingFileError(message)
            raise DownloadError(message) if usable else RefusedError(message)
        asked_for = max(self._refusals[url].retry_after for url in usable)
        seconds = max(self._patience.wait(rounds), min(asked_for, self._patience.longest_wait))
        _log.warning("no server delivers; asking again in %.0f s", seconds)
        time.sleep(seconds)

    def _answer(self, url: str, position: int, stop: int | None) -> Iterator[bytes]:
        """Yield the bytes from `position` that one request brings."""
        known = self.validators.get(url, Validator())
        headers = {"Accept-Encoding": "identity"}
        if position or stop is not None:
            headers["Range"] = f"bytes={position}-{'' if stop is None else stop - 1}"
        if position and known.condition:
            headers["If-Range"] = known.condition
        timeouts = (self._patience.connection_seconds, self._patience.silence_seconds)
        try:
            with self._session.get(url, headers=headers, stream=True, timeout=timeouts) as response:
                offset, found = self._place(url, response, position)
                is_safe = self._has_digest or known.condition is not None
                if position and (known.contradicts(found) or not is_safe):
                    raise self._changed(url)
                self.size = self.size if found.size is None else found.size
                self.url = url
                self.validators.setdefault(url, found)
                yield from self._body(response, offset, position, stop)
        except (RequestException, HTTPError) as error:
            raise broken_connection(error) from error

    def _place(self, url: str, response: Response, position: int) -> tuple[int, Validator]:
        """Return the place in the file where the body begins, and the facts about the file."""
        status, get = response.status_code, response.headers.get
        offset, text = 0, get("Content-Length", "")
        if position and status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise self._changed(url)
        if status == HTTPStatus.PARTIAL_CONTENT:
            place = get("Content-Range", "")
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", place, re.ASCII | re.IGNORECASE)
            if found is None or int(found[1]) != position:
                problem = f"Content-Range {place!r}; expected from byte {position} on"
                raise Refusal(problem, is_final=True)
            offset, text = position, found[2]
        elif status != HTTPStatus.OK:
            raise _status_refusal(response)
        size = int(text) if text.isascii() and text.isdigit() else None
        if size is not None and self._expected_size not in (None, size):
            problem = f"its file has {size} bytes; expected {self._expected_size}"
            raise Refusal(problem, is_final=True)
        return offset, Validator(size=size, etag=get("ETag"), last_modified=get("Last-Modified"))

    def _changed(self, url: str) -> Exception:
        self._changes += 1
        if self._changes > _CHANGES:
            return Refusal("the server returns a different file on each request", is_final=True)
        return FileChangedError(f"{url}: not the file that the first bytes came from")

    def _body(
        self, response: Response, offset: int, position: int, stop: int | None
    ) -> Iterator[bytes]:
        """Yield the body, which begins at `offset`, from `position` to `stop`."""
        end = self.size if stop is None else min(stop, self.size or stop)
        clock = time.monotonic()
        counted = 0
        while end is None or offset < end:
            piece = response.raw.read1(_PIECE_BYTES, decode_content=False)
            if not piece:
                break
            begin = max(0, position - offset)  # above 0 where a server ignores the range
            offset += len(piece)
            if self.size is not None and offset > self.size:
                raise Refusal(f"it sends more than {self.size} bytes", is_final=True)
            if wanted := piece[begin : None if stop is None else stop - offset + len(piece)]:
                position += len(wanted)
                yield wanted
            counted += len(piece)
            if (seconds := time.monotonic() - clock) > self._patience.silence_seconds:
                if counted < _SLOWEST * seconds:
                    raise Refusal(f"only {counted} bytes in {seconds:.0f} s")
                clock, counted = time.monotonic(), 0
        if end is not None and offset < end:
            raise Refusal(f"it sends {offset} bytes of {end}")


def _status_refusal(response: Response) -> Refusal:
    status = response.status_code
    try:
        retry_after = Retry().get_retry_after(response.raw) or 0.0
    except HTTPError:  # neither seconds nor a date
        retry_after = 0.0
    return Refusal(
        f"{status} {response.reason or ''}".rstrip(),
        is_final=status // 100 == 4 and status not in _PASSING,
        is_missing=status in _MISSING,
        retry_after=retry_after,
    )
