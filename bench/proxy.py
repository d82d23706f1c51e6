"""A relay in front of a server that makes it seem far away, and counts what passes.

It delays each direction, limits the bits per second, and counts connections, round trips and bytes.
It also reads the statements that clients of PostgreSQL send without TLS. A command reaches the
server through it with the URL that ``Proxy.url`` returns; tests use the same class without delay.
"""

import argparse
import asyncio
import contextlib
import struct
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy.engine import URL, make_url

_QUEUE_BYTES = 1024 * 1024
"""What a direction holds back before it stops reading, like the buffers of a connection."""
_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
_STATEMENTS = {b"Q": 0, b"P": 1}
"""Messages with the text of a statement: how many texts precede it."""


@dataclass
class Counts:
    """What passed through a relay.

    Attributes:
        round_trips: how often a client sent something after an answer, over all connections; the
            opening of a connection counts as one.
        sent: bytes to the server.
        received: bytes from the server.
        statements: the texts of statements, in the order in which they were sent.
    """

    connections: int = 0
    round_trips: int = 0
    sent: int = 0
    received: int = 0
    statements: list[str] = field(default_factory=list)


class Proxy:
    """A relay to one server; use ``relay``."""

    def __init__(self, server: URL, *, delay: float, bits_per_second: float | None) -> None:
        """Keep the arguments of ``relay``."""
        self.counts = Counts()
        self.port = 0
        self.clients = set[_Client]()
        self.loop = asyncio.new_event_loop()
        self._server = server
        self.delay = delay
        self.bits_per_second = bits_per_second
        self.free_at = {"up": 0.0, "down": 0.0}
        self._lock = threading.Lock()

    @property
    def url(self) -> URL:
        """The server's URL with the address of this relay."""
        query = {name: given for name, given in self._server.query.items() if name != "host"}
        return self._server.set(host="127.0.0.1", port=self.port, query=query)

    def taken(self) -> Counts:
        """The counts so far; counting starts again."""
        with self._lock:
            counts, self.counts = self.counts, Counts()
        return counts

    def count(self, **more: int) -> None:
        """Add to the counts."""
        with self._lock:
            for name, number in more.items():
                setattr(self.counts, name, getattr(self.counts, name) + number)

    def sent_statement(self, text: str) -> None:
        """Add a statement."""
        with self._lock:
            self.counts.statements.append(text)

    def cut(self) -> None:
        """Close all open connections on both sides, as a network that breaks does."""

        def abort() -> None:
            for client in self.clients:
                client.transport.abort()
                if client.up.into is not None:
                    client.up.into.abort()

        self.loop.call_soon_threadsafe(abort)

    async def open(self, client: "_Client") -> None:
        """Connect a client with the server, one round trip after it asked."""
        loop = asyncio.get_running_loop()
        if self.delay:
            await asyncio.sleep(2 * self.delay)

        def make() -> "_Server":
            return _Server(client)

        host = self._server.host or str(self._server.query.get("host", ""))
        try:
            if host.startswith("/"):
                path = f"{host}/.s.PGSQL.{self._server.port or 5432}"
                await loop.create_unix_connection(make, path)
            else:
                await loop.create_connection(make, host or "127.0.0.1", self._server.port or 5432)
        except OSError:
            client.transport.abort()


class _Link:
    """One direction of one connection: bytes arrive after the delay, in order."""

    def __init__(self, proxy: Proxy, direction: str, source: asyncio.Transport) -> None:
        self._proxy, self._direction, self._source = proxy, direction, source
        self._queue = deque[tuple[float, bytes | None]]()
        self._held, self._paused, self._waiting = 0, False, False
        self.into: asyncio.Transport | None = None

    def send(self, data: bytes | None) -> None:
        """Pass bytes on; None closes the connection."""
        loop, proxy = asyncio.get_running_loop(), self._proxy
        left = max(loop.time(), proxy.free_at[self._direction])
        if proxy.bits_per_second is not None:
            left += 8 * len(data or b"") / proxy.bits_per_second
            proxy.free_at[self._direction] = left
        due = left + proxy.delay
        if due <= loop.time() and not self._queue and self.into is not None:
            self._deliver(data)
            return
        self._queue.append((due, data))
        self._held += len(data or b"")
        if self._held > _QUEUE_BYTES and not self._paused and not self._source.is_closing():
            self._paused = True
            self._source.pause_reading()
        self.flush()

    def flush(self) -> None:
        """Pass on what has arrived by now, and wait for the rest."""
        if self.into is None or self._waiting:
            return
        loop = asyncio.get_running_loop()
        while self._queue and self._queue[0][0] <= loop.time() + 0.000_2:
            _, data = self._queue.popleft()
            self._held -= len(data or b"")
            self._deliver(data)
        if self._paused and self._held <= _QUEUE_BYTES // 2 and not self._source.is_closing():
            self._paused = False
            self._source.resume_reading()
        if self._queue:
            self._waiting = True
            loop.call_at(self._queue[0][0], self._again)

    def _again(self) -> None:
        self._waiting = False
        self.flush()

    def _deliver(self, data: bytes | None) -> None:
        assert self.into is not None
        if data is None:
            self.into.close()
        elif not self.into.is_closing():
            self.into.write(data)


class _Client(asyncio.Protocol):
    """The connection of a client."""

    transport: asyncio.Transport
    up: _Link
    down: _Link | None = None

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.answered = False
        self._statements = _Statements(proxy)
        self._opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.up = _Link(self.proxy, "up", self.transport)
        self.proxy.clients.add(self)
        self.proxy.count(connections=1, round_trips=1)
        self._opening = asyncio.get_running_loop().create_task(self.proxy.open(self))

    def data_received(self, data: bytes) -> None:
        self.proxy.count(sent=len(data), round_trips=int(self.answered))
        self.answered = False
        self._statements.feed(data)
        self.up.send(data)

    def connection_lost(self, _error: Exception | None) -> None:
        self.proxy.clients.discard(self)
        self.up.send(None)


class _Server(asyncio.Protocol):
    """The connection with the server."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        client, mine = self._client, cast("asyncio.Transport", transport)
        client.down = _Link(client.proxy, "down", mine)
        client.down.into, client.up.into = client.transport, mine
        client.answered = True  # What follows the opening of a connection is a round trip.
        client.up.flush()

    def data_received(self, data: bytes) -> None:
        client = self._client
        client.proxy.count(received=len(data))
        client.answered = True
        assert client.down is not None
        client.down.send(data)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._client.down is not None:
            self._client.down.send(None)


class _Statements:
    """Finds the statements in what a client of PostgreSQL sends."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._rest = b""
        self._started = False
        self._skip = 0

    def feed(self, data: bytes) -> None:
        """Read on; other protocols and encrypted bytes are passed over."""
        if self._skip >= len(data):
            self._skip -= len(data)
            return
        data, self._skip = self._rest + data[self._skip :], 0
        while True:
            head = 1 if self._started else 0
            if len(data) < head + 4:
                break
            (length,) = struct.unpack_from(">i", data, head)
            if length < 4 or (not self._started and length > 10_000):
                self._skip = 2**62
                break
            if self._started and data[:1] not in _STATEMENTS and len(data) < 1 + length:
                # Rows of a COPY are not kept.
                self._skip, data = 1 + length - len(data), b""
                break
            if len(data) < head + length:
                break
            message, data = data[: head + length], data[head + length :]
            if self._started:
                self._read(message)
            elif struct.unpack_from(">i", message, 4)[0] not in (_SSL_REQUEST, _GSS_REQUEST):
                self._started = True
        self._rest = data

    def _read(self, message: bytes) -> None:
        texts = _STATEMENTS.get(message[:1])
        if texts is not None:
            text = message[5:].split(b"\0")[texts]
            self._proxy.sent_statement(text.decode(errors="replace"))


@contextlib.contextmanager
def relay(
    server: URL | str,
    *,
    delay: float = 0.0,
    bits_per_second: float | None = None,
) -> Iterator[Proxy]:
    """Run a relay in a thread of its own while the context manager is open.

    Args:
        server: the URL of the server: PostgreSQL by socket or port, or any other server by port.
        delay: seconds of each direction; a round trip takes twice as long.
        bits_per_second: of each direction, for all connections together; None for no limit.
    """
    proxy = Proxy(make_url(server), delay=delay, bits_per_second=bits_per_second)
    loop = proxy.loop
    listening = loop.run_until_complete(
        loop.create_server(lambda: _Client(proxy), "127.0.0.1", 0, backlog=200)
    )
    proxy.port = listening.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, name="proxy", daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(listening.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def main() -> None:
    """Run a relay until it is interrupted, and print what passed."""
    parser = argparse.ArgumentParser(prog="python -m bench.proxy", description=__doc__)
    parser.add_argument("server", help="URL of the server, for example DATABASE_URL")
    parser.add_argument("--ms", type=float, default=50, help="length of a round trip")
    parser.add_argument("--mbit", type=float, help="megabits per second of each direction")
    given: Any = parser.parse_args()
    bits = given.mbit and given.mbit * 1e6
    with relay(given.server, delay=given.ms / 2_000, bits_per_second=bits) as proxy:
        print(proxy.url.render_as_string(hide_password=False), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        counts = proxy.taken()
    print(
        f"{counts.connections} connections, {counts.round_trips} round trips,"
        f" {counts.sent:,} bytes sent, {counts.received:,} received,"
        f" {len(counts.statements)} statements"
    )


if __name__ == "__main__":
    main()
