"""Messages between processes as lines of JSON, over sockets that never block."""

import json
import socket
from typing import Any, Final

_MOST_BYTES: Final = 1 << 16


class LineConnection:
    """One end of a connection.

    Attributes:
        socket: to wait on until there is something to receive.
        is_closed: whether the other end is gone, or sent what is no message.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self.socket = connected
        self.is_closed = False
        self._incoming = b""
        self._outgoing = b""

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; drop it where the other end has not read for long."""
        if len(self._outgoing) < _MOST_BYTES:
            self._outgoing += json.dumps(message).encode() + b"\n"
        try:
            sent = self.socket.send(self._outgoing)
        except OSError:  # would block, or the other end is gone, which receiving finds out
            return
        self._outgoing = self._outgoing[sent:]

    def receive(self) -> list[dict[str, Any]]:
        """Return the messages that are there, and notice whether the connection is closed."""
        try:
            data = self.socket.recv(_MOST_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        *lines, self._incoming = (self._incoming + data).split(b"\n")
        self.is_closed = not data or len(self._incoming) > _MOST_BYTES
        messages = []
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if not isinstance(message, dict):
                self.is_closed = True
                break
            messages.append(message)
        return messages

    def finish(self) -> None:
        """Say that nothing more will be sent; the other end reads what was sent before."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.is_closed = True


def listen(address: str) -> socket.socket:
    """Return a socket that listens on a free port, where processes that know `address` reach it.

    On all interfaces, unless the address is this host's own.
    """
    if address in ("127.0.0.1", "localhost"):
        return socket.create_server(("127.0.0.1", 0))
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError:  # the kernel knows IPv6, but no interface has it
            pass
    return socket.create_server(("", 0))
