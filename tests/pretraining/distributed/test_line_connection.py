import socket
from collections.abc import Iterator

import pytest

from esm1b.pretraining.distributed.line_connection import LineConnection, listen


@pytest.fixture
def ends() -> Iterator[tuple[LineConnection, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield LineConnection(ours), theirs


def test_messages_come_whole_and_in_order(ends: tuple[LineConnection, socket.socket]) -> None:
    connection, other = ends
    assert connection.receive() == []
    other.sendall(b'{"a": 1}\n{"a"')
    assert connection.receive() == [{"a": 1}]
    other.sendall(b': 2}\n{"a": 3}\n')
    assert connection.receive() == [{"a": 2}, {"a": 3}]
    assert not connection.is_closed


def test_what_was_sent_before_the_end_is_read(ends: tuple[LineConnection, socket.socket]) -> None:
    connection, other = ends
    receiver = LineConnection(other)
    connection.send({"verdict": "é"})
    connection.finish()
    assert receiver.receive() == [{"verdict": "é"}]
    assert not receiver.is_closed
    assert receiver.receive() == []
    assert receiver.is_closed


@pytest.mark.parametrize("content", [b"GET / HTTP/1.1\r\n", b"[1]\n", b"\xff\n", b"x" * 70_000])
def test_what_is_no_message_closes(
    ends: tuple[LineConnection, socket.socket], content: bytes
) -> None:
    connection, other = ends
    other.sendall(content)
    received = connection.receive() + connection.receive()  # as much as one call takes, and more
    assert received == []
    assert connection.is_closed


def test_one_that_does_not_read_blocks_nobody(ends: tuple[LineConnection, socket.socket]) -> None:
    connection, other = ends
    for number in range(10_000):
        connection.send({"number": number, "text": "x" * 100})
    receiver = LineConnection(other)
    numbers: list[int] = []
    while -1 not in numbers:
        numbers += [message["number"] for message in receiver.receive()]
        connection.send({"number": -1})
    # the first ones came whole, the last ones were dropped
    whole = [number for number in numbers if number >= 0]
    assert whole == [*range(len(whole))]
    assert len(whole) < 10_000


def test_the_other_end_is_gone(ends: tuple[LineConnection, socket.socket]) -> None:
    connection, other = ends
    other.close()
    connection.send({"a": 1})
    assert connection.receive() == []
    assert connection.is_closed
    connection.finish()


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "node1.cluster"])
def test_listening(address: str) -> None:
    with listen(address) as listener:
        where = ("127.0.0.1", listener.getsockname()[1])
        with socket.create_connection(where, timeout=5) as connected:
            assert connected.getpeername()[1] == where[1]


def test_only_this_host_is_heard_where_all_run_on_it() -> None:
    with listen("127.0.0.1") as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
