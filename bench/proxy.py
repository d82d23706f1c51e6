"""A relay in front of a server that makes it seem far away, and counts what passes.

It delays each direction, limits the bits per second, and counts connections, round trips and bytes.
It also reads the statements that clients of PostgreSQL send without TLS. A command reaches the
server through it with the URL that ``Proxy.url`` returns; tests use the same class without delay.
"""

import argparse
import asyncio
import contextlib
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast

from sqlalchemy.engine import URL, make_url

from bench.statements import Statements

_WINDOW_BYTES = 1024 * 1024
"""What a direction of a connection holds before it stops reading, like the buffers of TCP."""
_TICK = 0.000_5
"""Half of the resolution of timers: bytes may arrive so much earlier or later."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset."""


class _End(Enum):
    """How one side stops sending: it only stops, it closes the connection, or it breaks it."""

    EOF = 1
    CLOSE = 2
    RESET = 3


@dataclass
class Counts:
    """What passed through a relay.

    Attributes:
        round_trips: how often an answer came to what a client had sent, over all connections; the
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
        self.loop = asyncio.new_event_loop()
        self.delay = delay
        self.bits_per_second = bits_per_second
        self.sides = set["_Side"]()
        self._server = server
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
        """Reset all open connections on both sides, as a network that breaks does."""

        def abort() -> None:
            for side in tuple(self.sides):
                if side.transport is not None:
                    side.transport.abort()

        self.loop.call_soon_threadsafe(abort)

    async def connect(self, side: "_Side") -> None:
        """Connect a side with the server.

        Raises:
            OSError: the server does not listen.
        """
        loop = asyncio.get_running_loop()
        host = self._server.host or str(self._server.query.get("host", ""))
        port = self._server.port or 5432
        if host.startswith("/"):
            await loop.create_unix_connection(lambda: side, f"{host}/.s.PGSQL.{port}")
        else:
            await loop.create_connection(lambda: side, host or "127.0.0.1", port)


class _Line:
    """One direction of all connections, which share its bits per second."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._free_at = 0.0

    def arrival(self, size: int, *, earliest: float) -> float:
        """When bytes arrive that are sent now, or at ``earliest``."""
        left = max(asyncio.get_running_loop().time(), self._free_at, earliest)
        if self._proxy.bits_per_second is not None:
            left = self._free_at = left + 8 * size / self._proxy.bits_per_second
        return left + self._proxy.delay


class _Side(asyncio.Protocol):
    """A connection of the relay, with a client or with the server.

    What it reads waits in a queue until it arrives at the other side. It stops reading while the
    queue is full, because the bytes are on their way or the other side does not take them.
    """

    transport: asyncio.Transport | None = None

    def __init__(self, proxy: Proxy, line: _Line, *, opens_at: float) -> None:
        """``opens_at`` is when the connection is open as its client sees it."""
        self.proxy = proxy
        self.other: _Side
        self.ended = False
        self._line, self._opens_at = line, opens_at
        self._queue = deque[tuple[float, bytes | _End]]()
        self._held = 0
        self._paused = self._waiting = self._blocked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.proxy.sides.add(self)
        self.other.flush()

    def data_received(self, data: bytes) -> None:
        self.send(data)

    def eof_received(self) -> bool:
        """The other direction stays open."""
        self.ended = True
        self.send(_End.EOF)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.ended = True
        self.proxy.sides.discard(self)
        self.send(_End.RESET if error else _End.CLOSE)

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self.other.flush()

    def send(self, data: bytes | _End) -> None:
        """Put bytes on their way to the other side."""
        size = 0 if isinstance(data, _End) else len(data)
        self._queue.append((self._line.arrival(size, earliest=self._opens_at), data))
        self._held += size
        self.flush()
        if self._held > _WINDOW_BYTES and not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()

    def flush(self) -> None:
        """Pass on what has arrived by now, and wait for the rest."""
        loop, other = asyncio.get_running_loop(), self.other
        if other.transport is None or self._waiting:
            return
        now = loop.time() + _TICK
        while self._queue and self._queue[0][0] <= now and not other._blocked:
            _, data = self._queue.popleft()
            if isinstance(data, _End):
                other.end(data)
            else:
                self._held -= len(data)
                other.deliver(data)
        if self._paused and self._held <= _WINDOW_BYTES // 2 and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        if self._queue and not other._blocked:
            self._waiting = True
            loop.call_at(self._queue[0][0] - _TICK, self._again)

    def _again(self) -> None:
        self._waiting = False
        self.flush()

    def deliver(self, data: bytes) -> None:
        """Write bytes that have arrived."""
        assert self.transport is not None
        if not self.transport.is_closing():
            self.transport.write(data)

    def end(self, how: _End) -> None:
        """End the connection as the other side did."""
        assert self.transport is not None
        if self.transport.is_closing():
            return
        if how is _End.RESET:
            self.reset()
        elif how is _End.CLOSE or self.ended:
            self.transport.close()
        elif self.transport.can_write_eof():
            self.transport.write_eof()

    def reset(self) -> None:
        """End the connection at once."""
        if self.transport is not None:
            found = self.transport.get_extra_info("socket")
            if found is not None and found.family != socket.AF_UNIX and found.fileno() >= 0:
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()


class _Client(_Side):
    """The connection of a client."""

    def __init__(self, proxy: Proxy, up: _Line, down: _Line) -> None:
        opens_at = asyncio.get_running_loop().time() + 2 * proxy.delay
        super().__init__(proxy, up, opens_at=opens_at)
        self.other = _Server(proxy, down, opens_at=opens_at)
        self.other.other = self
        self._asked = False
        self._statements = Statements(proxy.sent_statement)
        self._opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.proxy.count(connections=1, round_trips=1)
        self._opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        await asyncio.sleep(self.proxy.delay)
        try:
            await self.proxy.connect(self.other)
        except OSError:
            await asyncio.sleep(self.proxy.delay)
            self.reset()

    def data_received(self, data: bytes) -> None:
        self._asked = True
        self.proxy.count(sent=len(data))
        self._statements.feed(data)
        self.send(data)

    def deliver(self, data: bytes) -> None:
        if self._asked:
            self._asked = False
            self.proxy.count(round_trips=1)
        super().deliver(data)


class _Server(_Side):
    """The connection with the server."""

    def data_received(self, data: bytes) -> None:
        self.proxy.count(received=len(data))
        self.send(data)


@contextlib.contextmanager
def relay(
    server: URL | str,
    *,
    delay: float = 0.0,
    bits_per_second: float | None = None,
) -> Iterator[Proxy]:
    """Run a relay in a thread of its own while the context manager is open.

    Connections that are still open at the end are broken.

    Args:
        server: the URL of the server: PostgreSQL by socket or port, or any other server by port.
        delay: seconds of each direction; a round trip takes twice as long.
        bits_per_second: of each direction, for all connections together; None for no limit.
    """
    proxy = Proxy(make_url(server), delay=delay, bits_per_second=bits_per_second)
    up, down, loop = _Line(proxy), _Line(proxy), proxy.loop
    listening = loop.run_until_complete(
        loop.create_server(lambda: _Client(proxy, up, down), "127.0.0.1", 0, backlog=200)
    )
    proxy.port = listening.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, name="proxy", daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        listening.close()
        loop.run_until_complete(_break_all(proxy))
        loop.close()


async def _break_all(proxy: Proxy) -> None:
    opening = asyncio.all_tasks() - {asyncio.current_task()}
    for task in opening:
        task.cancel()
    await asyncio.gather(*opening, return_exceptions=True)
    while proxy.sides:
        for side in list(proxy.sides):
            side.reset()
        await asyncio.sleep(0)


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
