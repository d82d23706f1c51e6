"""The wire between this process and the server: every byte is counted, and it can be cut.

A proxy on loopback in a thread of its own. TLS passes through it as it is.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import URL

_CHUNK = 64 * 1024


class Wire:
    """Connections to one server.

    Attributes:
        url: the server by way of this wire.
        bytes: what was sent in both directions.
        cuts: how many connections were cut.
    """

    def __init__(self, server: URL, loop: asyncio.AbstractEventLoop) -> None:
        """Carry nothing yet."""
        self.url, self.bytes, self.cuts = server, 0, 0
        self._server, self._loop = server, loop
        self._open: set[asyncio.StreamWriter] = set()

    async def listen(self) -> asyncio.Server:
        """Take connections from now on."""
        made = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        port = str(made.sockets[0].getsockname()[1])
        query = {key: value for key, value in self._server.query.items() if key != "host"}
        # The host keeps its name, because a certificate is of that.
        host = None if _socket(self._server) else self._server.host
        self.url = self._server.set(
            host=host or "127.0.0.1", port=int(port), query={**query, "hostaddr": "127.0.0.1"}
        )
        return made

    def cut(self) -> None:
        """End all connections as a network does that fails: with a reset."""
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        self.cuts += len(self._open) // 2
        for side in self._open:
            side.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Ending, it is cancelled; the loop would tell of that as of a fault.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            path = _socket(self._server)
            there, back = await (
                asyncio.open_unix_connection(path)
                if path
                else asyncio.open_connection(self._server.host, self._server.port or 5432)
            )
            sides = {writer, back}
            self._open |= sides
            try:
                await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
            finally:
                self._open -= sides
                back.close()
        writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(_CHUNK):
                self.bytes += len(piece)
                writer.write(piece)
                await writer.drain()
        finally:
            writer.close()


@contextmanager
def wired(server: URL) -> Iterator[Wire]:
    """A wire to a server, for as long as the block lasts."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    wire = Wire(server, loop)
    listening = asyncio.run_coroutine_threadsafe(wire.listen(), loop).result()
    try:
        yield wire
    finally:
        asyncio.run_coroutine_threadsafe(_end(listening), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(listening: asyncio.Server) -> None:
    listening.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _socket(server: URL) -> str | None:
    """The path of the socket that a server listens on, None if it does on a port."""
    folder = server.query.get("host") if not server.host else None
    port = server.query.get("port", server.port or 5432)
    return str(Path(str(folder)) / f".s.PGSQL.{port}") if folder else None
