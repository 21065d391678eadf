"""A web server on this machine that serves a release, and fails as it is told to."""

import hashlib
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with an answer.

    Attributes:
        status: instead of 200 or 206; the body is then an HTML page.
        headers: besides the usual ones, or instead of them; None takes one away.
        cut_after: bytes of the body after which the connection is closed.
        stall_after: bytes of the body after which nothing more comes.
        ignores_range: send the whole file with 200 whatever is asked for.
        body: instead of the file's bytes.
        is_chunked: send the body without saying how long it is.
        extra: bytes to append to the body.
        drip_seconds: send single bytes, so long after one another.
    """

    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    cut_after: int | None = None
    stall_after: int | None = None
    ignores_range: bool = False
    body: bytes | None = None
    is_chunked: bool = False
    extra: bytes = b""
    drip_seconds: float | None = None


@dataclass(kw_only=True)
class Request:
    """One request: the path, its headers, and how many bytes of a file were sent."""

    path: str
    headers: Mapping[str, str]
    bytes_sent: int = 0


class ReleaseServer:
    """Files by path, the faults of each one in the order of the requests, and a log.

    Attributes:
        url: of the root.
        files: their bytes.
        etags: by path; that of the file's content unless given.
        faults: by path; each request takes one, and the last one stays.
        requests: in their order.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.requests: list[Request] = []
        self.is_closing = threading.Event()
        self._lock = threading.Lock()

    def log(self, request: Request) -> Fault:
        """Record a request and return the fault of its answer."""
        with self._lock:
            self.requests.append(request)
            faults = self.faults.get(request.path, [])
            return Fault() if not faults else faults.pop(0) if len(faults) > 1 else faults[0]

    def bytes_sent(self, path: str) -> int:
        """Return how many bytes of a file went out in all requests together."""
        return sum(request.bytes_sent for request in self.requests if request.path == path)

    def ranges(self, path: str) -> list[str | None]:
        """Return the Range headers of the requests for a file."""
        return [request.headers.get("Range") for request in self.requests if request.path == path]


@contextmanager
def running_server() -> Iterator[ReleaseServer]:
    """Serve on a free port of this machine as long as the block runs."""

    class Handler(_Handler):
        release_server: ReleaseServer

    server = _Server(("127.0.0.1", 0), Handler)
    state = ReleaseServer(f"http://127.0.0.1:{server.server_address[1]}")
    Handler.release_server = state
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
    thread.start()
    try:
        yield state
    finally:
        state.is_closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def dead_url() -> str:
    """Return a URL where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def metalink(release: str, files: Mapping[str, bytes]) -> bytes:
    """Return a RELEASE.metalink in the form that UniProt writes."""
    entries = "".join(
        f"""
    <file name="{name}">
      <size>{len(data)}</size>
      <verification>
        <hash type="md5">{hashlib.md5(data).hexdigest()}</hash>
      </verification>
      <resources>
        <url type="ftp" location="us" preference="100">ftp://ftp.uniprot.org/pub/{name}</url>
      </resources>
    </file>"""
        for name, data in files.items()
    )
    return f"""<metalink xmlns="http://www.metalinker.org/" version="3.0">
  <publisher>
    <name>UniProt Consortium</name>
    <url>http://www.uniprot.org/</url>
  </publisher>
  <description>UniProt</description>
  <version>{release}</version>
  <files>{entries}
  </files>
</metalink>""".encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing of clients that went away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or every answer waits 40 ms for the client's acknowledgement
    release_server: ReleaseServer

    def do_GET(self) -> None:
        server = self.release_server
        path = re.sub(r"^http://[^/]+", "", self.path)  # a proxy is asked for the whole URL
        request = Request(path=path, headers=dict(self.headers))
        fault = server.log(request)
        if path not in server.files and fault.status is None:
            fault = replace(fault, status=404)
        if fault.status is not None:
            self._answer(request, fault, fault.status, b"<html>no</html>", {})
            return
        data = server.files[path] if fault.body is None else fault.body
        etag = server.etags.get(path, f'"{hashlib.md5(server.files[path]).hexdigest()}"')
        headers = {"ETag": etag, "Last-Modified": formatdate(1.5e9, usegmt=True)}
        begin, end = self._range(etag, len(data))
        if fault.ignores_range or begin is None:
            self._answer(request, fault, 200, data, headers)
        elif begin >= len(data):
            headers["Content-Range"] = f"bytes */{len(data)}"
            self._answer(request, fault, 416, b"", headers)
        else:
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
            self._answer(request, fault, 206, data[begin:end], headers)

    def _range(self, etag: str, size: int) -> tuple[int | None, int]:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None or self.headers.get("If-Range", etag) not in (
            etag,
            formatdate(1.5e9, usegmt=True),
        ):
            return None, size
        return int(asked[1]), min(int(asked[2]) + 1, size) if asked[2] else size

    def _answer(
        self, request: Request, fault: Fault, status: int, body: bytes, headers: dict[str, str]
    ) -> None:
        length = {"Transfer-Encoding": "chunked"}
        if not fault.is_chunked:
            length = {"Content-Length": str(len(body))}
        self.send_response(status)
        for name, value in {**headers, **length, **fault.headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        body += fault.extra
        stop = min(
            len(body) if limit is None else limit for limit in (fault.cut_after, fault.stall_after)
        )
        # before they are sent: the client may be done before this thread goes on
        request.bytes_sent = stop if status in (200, 206) else 0
        try:
            if fault.drip_seconds is not None:
                while not self.release_server.is_closing.wait(fault.drip_seconds):
                    self.wfile.write(body[:1])
            elif fault.is_chunked:
                self.wfile.write(b"%x\r\n%s\r\n" % (stop, body[:stop]))
                if stop == len(body):
                    self.wfile.write(b"0\r\n\r\n")
            else:
                self.wfile.write(body[:stop])
            self.wfile.flush()
        except OSError:  # the client went away
            self.close_connection = True
            return
        if fault.stall_after is not None:
            self.release_server.is_closing.wait(10)
        if stop < len(body) or fault.extra or fault.stall_after is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (http.server's name)
        """Print nothing."""
