"""The relay delays, limits and counts what passes, and ends connections as either side does."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from bench.proxy import Proxy, relay
from bench.statements import Statements

LATE = 0.08
"""A delay of one direction in these tests, in seconds."""
RESET = struct.pack("ii", 1, 0)

Handler = Callable[[socket.socket], None]


@contextmanager
def answering(handler: Handler) -> Iterator[str]:
    """A server that handles each connection in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def handle(connection: socket.socket) -> None:
            with connection, suppress(ConnectionError):  # the relay broke it
                handler(connection)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        # A blocked accept does not notice that its socket is closed.
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1 << 20):
        connection.sendall(data)


def ten_for_each(connection: socket.socket) -> None:
    while connection.recv(1):
        connection.sendall(b"x" * 10)


def connected(proxy: Proxy) -> "closing[socket.socket]":
    return closing(socket.create_connection(("127.0.0.1", proxy.port), timeout=10))


def exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        assert piece, "the connection was closed"
        data += piece
    return data


def to_its_end(connection: socket.socket) -> bytes:
    data = b""
    while piece := connection.recv(1 << 20):
        data += piece
    return data


def test_counts_are_those_of_what_passed_and_begin_anew_when_taken() -> None:
    with answering(ten_for_each) as url, relay(url) as proxy:
        with connected(proxy) as first, connected(proxy) as second:
            for connection in (first, second, first):
                connection.sendall(b"a")
                exactly(connection, 10)
            counts = proxy.taken()
            # Two were opened, and three answers came.
            assert (counts.connections, counts.round_trips) == (2, 2 + 3)
            assert (counts.sent, counts.received) == (3, 30)
            first.sendall(b"ab")  # Both are on their way before the first answer.
            exactly(first, 20)
            assert proxy.taken().received == 20
        assert proxy.taken().connections == 0


def test_what_is_sent_without_waiting_is_one_round_trip_and_unanswered_bytes_are_none() -> None:
    def serve(connection: socket.socket) -> None:
        exactly(connection, 3)
        connection.sendall(b"x")
        connection.recv(1)

    with (
        answering(serve) as url,
        relay(url, delay=0.02) as proxy,
        connected(proxy) as connection,
    ):
        for _ in range(3):
            connection.sendall(b"a")
            time.sleep(0.01)
        exactly(connection, 1)
        connection.sendall(b"z")
        assert connection.recv(1) == b""
        counts = proxy.taken()
    assert (counts.round_trips, counts.sent, counts.received) == (2, 4, 1)


def test_a_connection_and_each_answer_take_a_round_trip() -> None:
    with (
        answering(ten_for_each) as url,
        relay(url, delay=LATE) as proxy,
        connected(proxy) as connection,
    ):
        for expected in (2 * 2 * LATE, 2 * LATE, 2 * LATE):
            started = time.monotonic()
            connection.sendall(b"a")
            exactly(connection, 10)
            assert expected - 0.002 < time.monotonic() - started < expected + LATE


def test_a_server_that_speaks_first_is_heard_after_a_round_trip_and_a_half() -> None:
    started = time.monotonic()
    with (
        answering(lambda connection: connection.sendall(b"hello")) as url,
        relay(url, delay=LATE) as proxy,
        connected(proxy) as connection,
    ):
        assert exactly(connection, 5) == b"hello"
    assert 2 * LATE < time.monotonic() - started < 4 * LATE


@pytest.mark.parametrize("direction", ["up", "down"])
def test_all_connections_together_get_the_bits_of_a_direction(direction: str) -> None:
    size = 200_000

    def serve(connection: socket.socket) -> None:
        if direction == "up":
            exactly(connection, size)
            connection.sendall(b".")
        else:
            connection.sendall(b"x" * size)

    def ask(proxy: Proxy) -> None:
        with connected(proxy) as connection:
            if direction == "up":
                connection.sendall(b"x" * size)
            exactly(connection, 1 if direction == "up" else size)

    expected = 2 * 8 * size / 8e6
    with answering(serve) as url, relay(url, bits_per_second=8e6) as proxy:
        started = time.monotonic()
        both = [threading.Thread(target=ask, args=(proxy,)) for _ in range(2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        seconds = time.monotonic() - started
    assert expected - 0.01 < seconds < 2 * expected


def test_many_bytes_come_through_whole_and_in_order() -> None:
    sent = b"".join(struct.pack(">I", number) for number in range(2_000_000))
    with (
        answering(echo) as url,
        relay(url, delay=0.005) as proxy,
        connected(proxy) as connection,
    ):
        sender = threading.Thread(target=connection.sendall, args=(sent,))
        sender.start()
        assert exactly(connection, len(sent)) == sent
        sender.join()
        counts = proxy.taken()
        assert (counts.sent, counts.received) == (len(sent), len(sent))


@pytest.mark.parametrize("slow", ["server", "client"])
def test_a_side_that_does_not_read_stops_the_other(slow: str) -> None:
    free = threading.Event()
    size = 32 << 20

    def serve(connection: socket.socket) -> None:
        if slow == "server":
            free.wait(10)
            to_its_end(connection)
        else:
            connection.sendall(bytes(size))

    with answering(serve) as url, relay(url) as proxy, connected(proxy) as connection:
        sender = threading.Thread(target=lambda: connection.sendall(bytes(size)), daemon=True)
        if slow == "server":
            sender.start()
        passed = -1
        while passed != (passed := proxy.counts.sent + proxy.counts.received) or not passed:
            time.sleep(0.1)
        assert 0 < passed < size / 2
        free.set()
        if slow == "server":
            sender.join()
            connection.shutdown(socket.SHUT_WR)
            assert to_its_end(connection) == b""
        else:
            assert len(to_its_end(connection)) == size
        counts = proxy.taken()
        assert counts.sent + counts.received == size


def test_a_client_that_has_said_all_still_hears_the_answer() -> None:
    with (
        answering(lambda c: c.sendall(b"all: %d" % len(to_its_end(c)))) as url,
        relay(url, delay=0.01) as proxy,
        connected(proxy) as connection,
    ):
        connection.sendall(b"x" * 100_000)
        connection.shutdown(socket.SHUT_WR)
        assert to_its_end(connection) == b"all: 100000"


def test_a_server_that_has_said_all_still_hears_the_client() -> None:
    heard: list[bytes] = []
    done = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.sendall(b"bye")
        connection.shutdown(socket.SHUT_WR)
        heard.append(to_its_end(connection))
        done.set()

    with answering(serve) as url, relay(url, delay=0.01) as proxy, connected(proxy) as connection:
        assert to_its_end(connection) == b"bye"
        connection.sendall(b"last words")
        connection.shutdown(socket.SHUT_WR)
        assert done.wait(5) and heard == [b"last words"]


@pytest.mark.parametrize("delay", [0.0, LATE])
def test_a_reset_reaches_the_server_after_what_came_before(delay: float) -> None:
    seen: list[object] = []
    done = threading.Event()

    def serve(connection: socket.socket) -> None:
        try:
            seen.append(exactly(connection, 5))
            connection.sendall(b"read")
            connection.recv(1)
        except OSError as error:
            seen.append(type(error))
        done.set()

    with answering(serve) as url, relay(url, delay=delay) as proxy:
        with connected(proxy) as connection:
            connection.sendall(b"hello")
            exactly(connection, 4)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        started = time.monotonic()
        assert done.wait(5)
        assert time.monotonic() - started > delay - 0.002
    assert seen == [b"hello", ConnectionResetError]


def test_a_reset_of_the_server_reaches_the_client() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    with answering(serve) as url, relay(url) as proxy, connected(proxy) as connection:
        connection.sendall(b"a")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_where_no_server_listens_the_connection_is_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with relay(f"http://127.0.0.1:{port}") as proxy:
        # The reset may come before the client knows that it is connected.
        with pytest.raises(ConnectionResetError), connected(proxy) as connection:
            connection.recv(1)
        assert proxy.taken().connections == 1


def test_the_end_of_the_relay_breaks_what_is_open() -> None:
    with answering(echo) as url:
        with relay(url) as proxy:
            connection = socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
            connection.sendall(b"a")
            exactly(connection, 1)
        with closing(connection), pytest.raises(ConnectionResetError):
            connection.recv(1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port))


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">i", len(body) + 4) + body


STARTUP = message(b"", struct.pack(">i", 196608) + b"user\0me\0\0")
SSL, GSS = (message(b"", struct.pack(">i", code)) for code in (80877103, 80877104))
CLIENT = (
    GSS,
    SSL,
    STARTUP,
    message(b"Q", "SELECT 'ข้าว'\0".encode()),
    message(b"P", b"name\0SELECT $1\0\0\0"),
    message(b"B", b"\0name\0" + bytes(5_000)),
    message(b"d", b"SELECT 'a row of a COPY'\0" * 1_000),
    message(b"c", b""),
    message(b"P", b"\0COMMIT\0\0\0"),
    message(b"X", b""),
)


@pytest.mark.parametrize("piece", [1, 7, 1_000, 1_000_000])
def test_statements_are_read_however_their_bytes_arrive(piece: int) -> None:
    sent, found = b"".join(CLIENT), list[str]()
    reader = Statements(found.append)
    for at in range(0, len(sent), piece):
        reader.feed(sent[at : at + piece])
    assert found == ["SELECT 'ข้าว'", "SELECT $1", "COMMIT"]


@pytest.mark.parametrize(
    "sent",
    [
        b"POST / HTTP/1.1\r\n\r\n",
        SSL + b"\x16\x03\x01\x02\x00\x01" + bytes(500),
        STARTUP + b"Q\0\0\0\0",
    ],
    ids=["http", "tls", "damaged"],
)
def test_other_bytes_are_passed_over(sent: bytes) -> None:
    found = list[str]()
    reader = Statements(found.append)
    for at in range(0, len(sent), 3):
        reader.feed(sent[at : at + 3])
    reader.feed(b"".join(CLIENT))
    assert found == []
